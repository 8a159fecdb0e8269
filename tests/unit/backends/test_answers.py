"""What a backend makes of every answer a server may give, good or bad."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from worker.backends.base import Backend, BackendOptions, CallContext, Chunk
from worker.backends.openai_compatible import OpenAIClient
from worker.backends.scripted import Scripted
from worker.errors import (
    BackendRejected,
    BackendUnavailable,
    ContextLengthExceeded,
    InputTooLarge,
    InvalidTask,
    TaskError,
)

HELLO = {"messages": [{"role": "user", "content": "Hello to you"}], "max_tokens": 64}
CALL = CallContext(task_id="6c1ad6f7-6f5b-4d0b-9e9b-1d1f1d1f1d1f")


async def failure(backend: Backend, *, stream: bool = False, request: Any = HELLO) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await backend.chat(request, CALL, (lambda _: None) if stream else None)
    return caught.value


@pytest.fixture(params=["whole", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "streamed")


async def test_an_answer_is_the_same_whole_and_streamed(
    server: Scripted, connect: Callable[..., Backend]
) -> None:
    backend, pieces = connect(server), list[Chunk]()
    whole = await backend.chat(HELLO, CALL)
    streamed = await backend.chat(HELLO, CALL, pieces.append)
    assert whole.text == streamed.text == "".join(piece.text for piece in pieces) == "Hello to you"
    assert len(pieces) == 3
    assert whole.usage == streamed.usage == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert whole.finish_reason == streamed.finish_reason == "stop"
    assert set(streamed.body) == set(whole.body) - {"timings"}
    assert streamed.server_url == server.url
    assert (whole.attempts, streamed.attempts) == (1, 1)


async def test_the_task_id_and_the_model_reach_the_server(
    server: Scripted, connect: Callable[..., Backend]
) -> None:
    await connect(server).chat(HELLO, CALL)
    [seen] = server.chats()
    assert seen.request_id == CALL.task_id
    assert seen.body == {"model": "scripted", **HELLO}


async def test_tool_calls_are_the_same_whole_and_streamed(
    server: Scripted, connect: Callable[..., Backend], stream: bool
) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    server.script({"fault": "message", "message": {"tool_calls": [call]}})
    reply = await connect(server).chat(HELLO, CALL, (lambda _: None) if stream else None)
    assert reply.body["choices"][0]["message"]["tool_calls"] == [call]
    assert reply.finish_reason == "tool_calls"
    assert reply.text == ""


async def test_time_to_first_token_comes_from_the_stream_or_from_llama_cpps_timings(
    connect: Callable[..., Backend],
) -> None:
    async with Scripted(latency_s=0.2) as server:
        backend = connect(server)
        whole = await backend.chat(HELLO, CALL)
        streamed = await backend.chat(HELLO, CALL, lambda _: None)
    assert whole.ttft_s == pytest.approx(whole.total_s - 0.1)
    assert streamed.ttft_s is not None
    assert streamed.ttft_s < streamed.total_s - 0.1
    async with Scripted(kind="vllm") as server:
        assert (await connect(server, kind="vllm").chat(HELLO, CALL)).ttft_s is None


async def test_a_server_that_does_not_stream_is_understood(
    server: Scripted, connect: Callable[..., Backend]
) -> None:
    message = {"role": "assistant", "content": "All at once"}
    server.script({"fault": "json", "body": {"choices": [{"message": message, "finish_reason": "stop"}]}})
    pieces: list[Chunk] = []
    reply = await connect(server).chat(HELLO, CALL, pieces.append)
    assert reply.text == "All at once"
    assert pieces == [Chunk("All at once")]


REFUSALS: list[tuple[dict[str, Any], type[TaskError], str]] = [
    ({"status": 400, "body": {"error": {"message": "bad temperature"}}}, BackendRejected, "bad temperature"),
    ({"status": 400, "body": {"detail": [{"loc": ["stop"]}]}}, BackendRejected, "stop"),
    ({"status": 422, "body": "just words"}, BackendRejected, "just words"),
    ({"status": 422, "body": {"error": {"message": "x" * 9000}}}, BackendRejected, "x" * 500 + " …"),
    ({"status": 401}, BackendRejected, "LLM_API_KEY"),
    ({"status": 403}, BackendRejected, "LLM_API_KEY"),
    (
        {"status": 404, "body": {"error": {"message": "The model `gpt` does not exist."}}},
        BackendRejected,
        "one it serves: scripted",
    ),
    ({"status": 404, "body": {"detail": "Not Found"}}, BackendRejected, "LLM_SERVER_URL does not look like"),
    ({"status": 413}, InputTooLarge, "413"),
    ({"status": 302, "headers": {"Location": "http://elsewhere/"}}, BackendRejected, "http://elsewhere/"),
    ({"status": 501, "body": {"error": {"message": "no embeddings"}}}, BackendRejected, "no embeddings"),
    (
        {"status": 500, "body": {"error": {"message": "1 validation error: bad"}}},
        BackendRejected,
        "validation error",
    ),
    (
        {"status": 400, "body": {"error": {"type": "exceed_context_size_error", "message": "too long"}}},
        ContextLengthExceeded,
        "too long",
    ),
    (
        {"status": 400, "body": {"error": {"code": "context_length_exceeded", "message": "5036 tokens"}}},
        ContextLengthExceeded,
        "5036 tokens",
    ),
    (
        {"status": 500, "body": {"error": "Requested tokens (9) exceed context window of 5"}},
        ContextLengthExceeded,
        "Requested tokens",
    ),
    (
        {
            "status": 400,
            "body": {
                "error": {"message": "The decoder prompt is longer than the maximum model length of 512."}
            },
        },
        ContextLengthExceeded,
        "512",
    ),
    ({"fault": "html"}, BackendRejected, "HTML page. LLM_SERVER_URL does not look like"),
    ({"fault": "html", "status": 404}, BackendRejected, "HTML page. LLM_SERVER_URL does not look like"),
    ({"fault": "garbage"}, BackendRejected, "LLM_SERVER_URL does not look like"),
    ({"fault": "wrong_type"}, BackendRejected, "image/png"),
    ({"fault": "json", "body": [1]}, BackendRejected, "a JSON object with `choices`"),
    ({"fault": "json", "body": {"choices": "x"}}, BackendRejected, "a JSON object with `choices`"),
    ({"fault": "json", "body": {"choices": []}}, BackendRejected, "without a message"),
    ({"fault": "json", "body": {"choices": [{"text": "x"}]}}, BackendRejected, "without a message"),
    ({"fault": "huge", "bytes": 8 * 1024 * 1024}, BackendRejected, "more than 1,000,000 bytes"),
]


@pytest.mark.parametrize(("fault", "error", "words"), REFUSALS)
async def test_a_refusal_is_named_and_not_tried_again(
    server: Scripted,
    connect: Callable[..., Backend],
    stream: bool,
    fault: dict[str, Any],
    error: type[TaskError],
    words: str,
) -> None:
    server.script({"fault": "status", **fault})
    backend = connect(server, max_response_bytes=1_000_000)
    caught = await failure(backend, stream=stream)
    assert type(caught) is error
    assert words in str(caught)
    assert len(server.chats()) == 1
    assert (await backend.chat(HELLO, CALL)).text == "Hello to you"


PASSING: list[dict[str, Any]] = [
    {"fault": "status", "status": 500},
    {"fault": "status", "status": 502, "body": "<html>Bad Gateway</html>"},
    {"fault": "status", "status": 504},
    {"fault": "status", "status": 429},
    {"fault": "status", "status": 503},
    {"fault": "status", "status": 503, "body": {"error": {"message": "Loading model"}}},
    {"fault": "half_body"},
    {"fault": "close"},
]


@pytest.mark.parametrize("fault", PASSING)
async def test_a_failure_that_may_pass_is_tried_again(
    server: Scripted, connect: Callable[..., Backend], stream: bool, fault: dict[str, Any]
) -> None:
    server.script(fault)
    reply = await connect(server).chat(HELLO, CALL, (lambda _: None) if stream else None)
    assert reply.text == "Hello to you"
    assert reply.attempts == len(server.chats()) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"fault": "status", "status": 500, "body": {"error": "out of memory"}}, "out of memory"),
        ({"fault": "half_body"}, "broke off"),
        ({"fault": "close"}, "closed the connection"),
    ],
)
async def test_a_failure_that_stays_ends_after_five_attempts(
    server: Scripted, connect: Callable[..., Backend], fault: dict[str, Any], words: str, quick_retries: None
) -> None:
    server.script({**fault, "times": -1})
    caught = await failure(connect(server))
    assert isinstance(caught, BackendUnavailable)
    assert words in str(caught)
    assert len(server.chats()) == 5


@pytest.mark.parametrize("fault", [{"fault": "hang"}, {"fault": "drip"}])
async def test_an_answer_that_takes_too_long_names_the_setting(
    server: Scripted, connect: Callable[..., Backend], fault: dict[str, Any], quick_retries: None, until: Any
) -> None:
    server.script({**fault, "times": -1})
    caught = await failure(connect(server, timeout_s=0.1))
    assert isinstance(caught, BackendUnavailable)
    assert "LLM_TIMEOUT (0.1 s)" in str(caught)
    await until(lambda: all(seen.outcome == "disconnected" for seen in server.chats()))


async def test_a_gigabyte_is_not_read(
    server: Scripted, connect: Callable[..., Backend], stream: bool
) -> None:
    server.script({"fault": "huge"})
    started = time.monotonic()
    caught = await failure(connect(server, max_response_bytes=1_000_000), stream=stream)
    assert isinstance(caught, BackendRejected)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("data: not json\n\n", BackendRejected, "not json"),
        ('data: {"no": "choices"}\n\n', BackendRejected, "a piece of a chat completion"),
        ('data: {"error": {"code": 400, "message": "no"}}\n\n', BackendRejected, "answered 400"),
        (
            'data: {"error": {"code": 400, "message": "exceed_context_size_error"}}\n\n',
            ContextLengthExceeded,
            "400",
        ),
        (
            'data: {"error": {"message": "CUDA error"}}\n\n',
            BackendUnavailable,
            "CUDA error",
        ),
    ],
)
async def test_errors_inside_a_stream_are_understood(
    server: Scripted,
    connect: Callable[..., Backend],
    text: str,
    error: type[TaskError],
    words: str,
    quick_retries: None,
) -> None:
    server.script({"fault": "events", "text": text, "times": -1})
    caught = await failure(connect(server), stream=True)
    assert type(caught) is error
    assert words in str(caught)


async def test_a_stream_that_ended_without_done_counts_when_it_said_why_it_ended(
    server: Scripted, connect: Callable[..., Backend]
) -> None:
    choice = '{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}'
    server.script({"fault": "events", "text": 'data: {"choices": [' + choice + "]}"})
    assert (await connect(server).chat(HELLO, CALL, lambda _: None)).text == "Hi"


async def test_a_stream_that_breaks_after_it_was_shown_is_not_started_over(
    server: Scripted, connect: Callable[..., Backend]
) -> None:
    server.script({"fault": "close_mid_stream", "text": "half of"})
    pieces: list[Chunk] = []
    with pytest.raises(BackendUnavailable, match="broke off"):
        await connect(server).chat(HELLO, CALL, pieces.append)
    assert [piece.text for piece in pieces] == ["half", "of"]
    assert len(server.chats()) == 1


async def test_a_silent_stream_is_asked_again_whole_for_its_reason(connect: Callable[..., Backend]) -> None:
    async with Scripted(kind="llama-cpp-python", context_length=8) as server:
        caught = await failure(
            connect(server), stream=True, request={"messages": [{"role": "user", "content": "a " * 50}]}
        )
    assert isinstance(caught, ContextLengthExceeded)
    assert "maximum context length is 8 tokens" in str(caught)


async def test_an_unknown_model_is_refused_with_the_names_there_are(
    server: Scripted, connect: Callable[..., Backend]
) -> None:
    caught = await failure(connect(server), request={**HELLO, "model": "gpt-5"})
    assert isinstance(caught, BackendRejected)
    assert "'gpt-5'" in str(caught)
    assert "one it serves: scripted" in str(caught)
    caught = await failure(connect(server, model="gpt-5"))
    assert "'gpt-5' of LLM_MODEL" in str(caught)
    assert server.chats() == []


@pytest.mark.parametrize(
    ("content", "words"), [("\ud800", "not valid Unicode"), (float("nan"), "cannot be written as JSON")]
)
async def test_what_json_cannot_hold_is_refused_here(
    server: Scripted, connect: Callable[..., Backend], content: object, words: str
) -> None:
    caught = await failure(connect(server), request={"messages": [{"role": "user", "content": content}]})
    assert isinstance(caught, InvalidTask)
    assert words in str(caught)


async def test_cancelling_closes_the_connection_at_once(
    connect: Callable[..., Backend], until: Any, stream: bool
) -> None:
    async with Scripted(latency_s=30) as server:
        sink: Callable[[Chunk], None] | None = (lambda _: None) if stream else None
        task = asyncio.create_task(connect(server).chat(HELLO, CALL, sink))
        await until(lambda: len(server.chats()) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.chats()[0].outcome == "disconnected", 1.0)


async def test_a_listener_that_raises_stops_the_server(connect: Callable[..., Backend], until: Any) -> None:
    class EnoughError(Exception):
        pass

    def stop(_: Chunk) -> None:
        raise EnoughError

    async with Scripted(latency_s=3) as server:
        with pytest.raises(EnoughError):
            await connect(server).chat(HELLO, CALL, stop)
        await until(lambda: server.chats()[0].outcome == "disconnected", 1.0)


async def test_a_connection_is_used_again(
    server: Scripted, connect: Callable[..., Backend], stream: bool
) -> None:
    backend = connect(server)
    sink: Callable[[Chunk], None] | None = (lambda _: None) if stream else None
    await backend.chat(HELLO, CALL, sink)
    assert server._runner is not None
    assert server._runner.server is not None
    opened = set(server._runner.server.connections)
    for _ in range(3):
        await backend.chat(HELLO, CALL, sink)
    assert set(server._runner.server.connections) == opened


async def test_the_key_goes_with_every_request() -> None:
    heads: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        client = OpenAIClient(url, BackendOptions((url,), api_key="secret"))
        with pytest.raises(BackendUnavailable, match="closed the connection"):
            await client.post("/v1/embeddings", {}, wanted="data", request_id="a", timeout_s=5)
        await client.aclose()
    lines = heads[0].decode().lower().split("\r\n")
    assert {"authorization: bearer secret", "accept-encoding: identity", "x-request-id: a"} <= set(lines)


async def test_embeddings_come_as_the_server_gives_them(
    server: Scripted, connect: Callable[..., Backend]
) -> None:
    backend = connect(server)
    reply = await backend.embed({"input": ["ab", "c"]}, CALL)
    assert [entry["embedding"][0] for entry in reply.body["data"]] == [2.0, 1.0]
    assert reply.finish_reason is None
    server.embeddings = False
    with pytest.raises(BackendRejected, match=r"No embeddings: .* with --embeddings"):
        await backend.embed({"input": "x"}, CALL)
