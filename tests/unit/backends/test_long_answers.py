"""Long answers: streamed though nobody looks, cut where they run away, and counted all the same."""

from collections.abc import Callable
from typing import Any

import pytest

from worker.backends.base import Backend, CallContext, Chunk
from worker.backends.scripted import Scripted
from worker.errors import BackendUnavailable

HELLO: Any = {"messages": [{"role": "user", "content": "Hello to you"}], "max_tokens": 64}
CALL = CallContext(task_id="6c1ad6f7-6f5b-4d0b-9e9b-1d1f1d1f1d1f")
KINDS = ["llamacpp", "llama-cpp-python", "vllm"]
LOOP: Any = {"fault": "content", "content": "Once upon a time." + " and then" * 20_000}
LONG: Any = {**HELLO, "max_tokens": None}


@pytest.fixture(params=["whole", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "streamed")


async def test_a_long_answer_of_llama_cpp_is_streamed_that_a_cancellation_is_noticed(
    server: Scripted, connect: Callable[..., Backend]
) -> None:
    server.script({"fault": "close_mid_stream"})
    reply = await connect(server).chat({**HELLO, "max_tokens": 65, "stream": False}, CALL)
    assert [seen.body and seen.body.get("stream") for seen in server.chats()] == [True, True]
    assert reply.text == "Hello to you"
    assert reply.attempts == 2


async def connected(connect: Callable[..., Backend], server: Scripted) -> Backend:
    backend = connect(server, kind="vllm" if server.kind == "vllm" else "llamacpp")
    await backend.capabilities(CALL)
    server.seen.clear()
    return backend


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_that_repeats_itself_is_cut_and_what_came_is_kept(
    connect: Callable[..., Backend], until: Any, kind: Any, stream: bool
) -> None:
    async with Scripted(kind=kind, tokens=50_000) as server:
        backend = await connected(connect, server)
        server.script(LOOP)
        pieces: list[Chunk] = []
        reply = await backend.chat(LONG, CALL, pieces.append if stream else None)
        assert reply.finish_reason == "repetition"
        assert reply.text.startswith("Once upon a time. and then and then")
        assert reply.text in LOOP["content"]
        assert 2000 <= len(reply.text) < 2400
        assert reply.text == "".join(piece.text for piece in pieces) or not stream
        await until(lambda: server.chats()[0].outcome == "disconnected", 1.0)
        assert len(server.chats()) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cut_answer_has_its_tokens_counted(connect: Callable[..., Backend], kind: Any) -> None:
    async with Scripted(kind=kind, tokens=50_000) as server:
        backend = await connected(connect, server)
        server.script(LOOP)
        reply = await backend.chat(LONG, CALL)
        words = len(reply.text.split()) + 1  # and a full stop
        assert reply.usage["completion_tokens"] == words
        assert 3 < reply.usage["prompt_tokens"] < 20
        assert reply.usage["total_tokens"] == reply.usage["prompt_tokens"] + words


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_of_any_length_says_how_many_tokens_it_took(
    connect: Callable[..., Backend], kind: Any, stream: bool
) -> None:
    async with Scripted(kind=kind) as server:
        backend = await connected(connect, server)
        reply = await backend.chat(LONG, CALL, (lambda _: None) if stream else None)
        assert [seen.body and seen.body["stream"] for seen in server.chats()] == [True]
        assert reply.text == "Hello to you"
        assert reply.usage["completion_tokens"] == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_a_short_answer_is_not_streamed_where_nobody_looks(
    connect: Callable[..., Backend], kind: Any
) -> None:
    async with Scripted(kind=kind) as server:
        await (await connected(connect, server)).chat(HELLO, CALL)
        assert server.chats()[0].body == {"model": "scripted", **HELLO}


@pytest.mark.parametrize(
    ("kind", "wish"),
    [
        ("llama-cpp-python", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("vllm", {"prompt_logprobs": 1}),
    ],
)
async def test_what_a_server_cannot_stream_is_not_streamed(
    connect: Callable[..., Backend], kind: Any, wish: dict[str, Any]
) -> None:
    async with Scripted(kind=kind) as server:
        await (await connected(connect, server)).chat({**LONG, **wish}, CALL)
        [seen] = server.chats()
        assert seen.body is not None
        assert "stream" not in seen.body


async def test_tokens_that_cannot_be_counted_are_not_made_up(connect: Callable[..., Backend]) -> None:
    async with Scripted(kind="llama-cpp-python") as server:
        backend = await connected(connect, server)
        server.script({"fault": "status", "status": 500, "path": "/extras/tokenize/count"})
        reply = await backend.chat(LONG, CALL)
        assert reply.text == "Hello to you"
        assert reply.usage == {}


INTERRUPTED: Any = {
    "fault": "events",
    "text": 'data: {"choices": [{"index": 0, "delta": {"content": "Hel"}}]}\n\ndata: [DONE]\n\n',
}


async def test_a_stream_that_another_request_interrupted_is_asked_again_whole(
    connect: Callable[..., Backend],
) -> None:
    async with Scripted(kind="llama-cpp-python") as server:
        backend = await connected(connect, server)
        server.script(INTERRUPTED)
        reply = await backend.chat(LONG, CALL)
        assert reply.text == "Hello to you"
        assert ["stream" in (seen.body or {}) for seen in server.chats()] == [True, False]


async def test_an_interrupted_stream_that_was_shown_is_no_answer(
    server: Scripted, connect: Callable[..., Backend]
) -> None:
    server.script(INTERRUPTED)
    with pytest.raises(BackendUnavailable, match="broke off"):
        await connect(server).chat(LONG, CALL, lambda _: None)
