"""Base models: a text to go on with, on the same path as a chat; and the server that has read it before."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from tests.unit.backends.test_gate_lanes import BATCH, DEFAULT, gate_of
from worker.backends.base import Backend, CallContext, Chunk
from worker.backends.runaway import REPETITION
from worker.backends.scripted import COMPLETIONS, Scripted
from worker.errors import BackendRejected, ContextLengthExceeded

CALL = CallContext(task_id="6c1ad6f7-6f5b-4d0b-9e9b-1d1f1d1f1d1f")
ONCE = {"prompt": "Once upon a time", "max_tokens": 64}
KINDS = ("llamacpp", "vllm", "llama-cpp-python")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_text_goes_on_the_same_whole_and_streamed(kind: str, connect: Callable[..., Backend]) -> None:
    async with Scripted(kind=kind) as server:  # type: ignore[arg-type]
        backend = connect(server, kind="vllm" if kind == "vllm" else "llamacpp")
        pieces = list[Chunk]()
        whole = await backend.complete(ONCE, CALL)
        streamed = await backend.complete(ONCE, CALL, pieces.append)
        assert whole.text == streamed.text == "".join(piece.text for piece in pieces) == " Once upon a time"
        assert len(pieces) == 4
        assert whole.usage["prompt_tokens"] == streamed.usage["prompt_tokens"] == 4
        assert whole.usage["completion_tokens"] == streamed.usage["completion_tokens"] == 4
        assert whole.finish_reason == streamed.finish_reason == "stop"
        assert whole.body["object"] == streamed.body["object"] == "chat.completion"
        asked = [request.body for request in server.seen if request.path == COMPLETIONS]
        assert [body and body["prompt"] for body in asked] == ["Once upon a time"] * 2


async def test_a_text_that_is_too_long_is_refused(connect: Callable[..., Backend]) -> None:
    async with Scripted(context_length=16) as server:
        with pytest.raises(ContextLengthExceeded):
            await connect(server).complete({"prompt": "word " * 40, "max_tokens": 8}, CALL)


async def test_a_text_that_runs_away_is_cut(connect: Callable[..., Backend]) -> None:
    async with Scripted(tokens=10_000) as server:
        reply = await connect(server).complete({"prompt": "again and " * 1500}, CALL)
    assert reply.finish_reason == REPETITION
    assert reply.usage["prompt_tokens"] == 3000
    assert 0 < reply.usage["completion_tokens"] < 2000


async def test_who_is_cancelled_hangs_up(
    connect: Callable[..., Backend], until: Callable[..., Awaitable[None]]
) -> None:
    async with Scripted(latency_s=30) as server:
        asking = asyncio.create_task(connect(server).complete(ONCE, CALL))
        await until(lambda: any(request.path == COMPLETIONS for request in server.seen))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        [seen] = [request for request in server.seen if request.path == COMPLETIONS]
        await until(lambda: seen.outcome == "disconnected")


async def test_a_base_model_is_known_or_says_so(connect: Callable[..., Backend]) -> None:
    async with Scripted(chat_template=False) as base, Scripted() as chats:
        assert (await connect(base).capabilities(CALL)).chat_template is False
        assert (await connect(chats).capabilities(CALL)).chat_template is True
        assert (await connect(base, chats).capabilities(CALL)).chat_template is False
    async with Scripted(kind="vllm", chat_template=False) as server:
        backend = connect(server, kind="vllm")
        assert (await backend.capabilities(CALL)).chat_template is None
        with pytest.raises(BackendRejected, match="chat template"):
            await backend.chat({"messages": [{"role": "user", "content": "Hi"}]}, CALL)


async def test_calls_of_one_name_go_to_one_server_while_it_has_a_free_slot() -> None:
    gate = gate_of(2, 2, 2)
    homes: Counter[str] = Counter()
    for number in range(60):
        slots = [await gate.take(DEFAULT, affinity=f"story {number}")]
        home = slots[0].server
        slots.append(await gate.take(DEFAULT, affinity=f"story {number}"))
        assert slots[1].server is home
        async with asyncio.timeout(1):  # it never waits for it
            slots.append(await gate.take(DEFAULT, affinity=f"story {number}"))
        assert slots[2].server is not home
        for slot in slots:
            gate.give_back(slot)
        again = await gate.take(DEFAULT, affinity=f"story {number}")
        assert again.server is home
        gate.give_back(again)
        homes[home.client.url] += 1
    assert len(homes) == 3
    assert min(homes.values()) >= 8, "names are spread over the servers"


async def test_a_name_stays_where_it_is_when_another_server_goes_and_a_failed_one_is_passed_over() -> None:
    names = [f"story {number}" for number in range(30)]

    async def homes(gate: object, **more: object) -> list[str]:
        found = []
        for name in names:
            slot = await gate.take(BATCH, affinity=name, **more)  # type: ignore[attr-defined]
            found.append(slot.server.client.url)
            gate.give_back(slot)  # type: ignore[attr-defined]
        return found

    three = await homes(gate_of(4, 4, 4))
    two = await homes(gate_of(4, 4))
    assert [one == other for one, other in zip(three, two, strict=True) if one != "http://server-2"] == [
        True
    ] * (30 - three.count("http://server-2"))
    gate = gate_of(4, 4)
    assert "http://server-0" not in await homes(gate, avoid=gate.servers[0])
