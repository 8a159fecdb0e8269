"""The backend on llama.cpp's own server with SmolLM2."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from worker.backends import create_backend
from worker.backends.base import Backend, BackendOptions, CallContext, Chunk, State
from worker.backends.tokens import estimate
from worker.errors import BackendRejected, BackendUnavailable, ContextLengthExceeded
from worker.local.llamacpp import LocalLlama

CALL = CallContext(task_id="test")
QUESTION: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Name three colours."}],
    "max_tokens": 12,  # short enough not to be streamed unasked
    "temperature": 0,
    "seed": 1,
}
LONG: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Tell a long story."}],
    "max_tokens": 1500,
    "ignore_eos": True,
}


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Backend]:
    made = create_backend("llamacpp", BackendOptions(urls=(url,)))
    try:
        yield made
    finally:
        await made.aclose()


@pytest.fixture
async def backend(llama_url: str) -> AsyncIterator[Backend]:
    async with connected(llama_url) as made:
        yield made


@pytest.fixture(scope="module")
def own_llama() -> Iterator[LocalLlama]:
    """A server for tests that look at its slots or end it."""
    with LocalLlama(slots=2, context=1024) as server:
        server.wait_ready()
        yield server


async def test_it_is_found_out_what_the_server_can_do(backend: Backend) -> None:
    found = await backend.capabilities(CALL)
    assert found.server == "llama.cpp"
    assert found.model in found.models
    assert found.slots == 4
    assert found.context_length == 2048
    assert found.structured == "json_schema"
    assert found.embeddings
    assert found.tokenizer


async def test_an_answer_is_the_same_whole_and_streamed(backend: Backend) -> None:
    pieces: list[Chunk] = []
    whole = await backend.chat(QUESTION, CALL)
    streamed = await backend.chat(QUESTION, CALL, pieces.append)
    assert whole.text == streamed.text == "".join(piece.text for piece in pieces)
    assert whole.finish_reason == streamed.finish_reason
    assert whole.usage["completion_tokens"] == streamed.usage["completion_tokens"] == 12
    assert set(whole.body) == set(streamed.body)
    for reply in (whole, streamed):
        assert reply.ttft_s is not None
        assert 0 < reply.ttft_s < reply.total_s


async def test_a_schema_is_obeyed(backend: Backend) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer", "maximum": 9}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    form = backend.constrain(schema, await backend.capabilities(CALL))
    reply = await backend.chat({**QUESTION, **form, "max_tokens": 100}, CALL)
    answer = json.loads(reply.text)
    assert answer["colour"] in {"red", "blue"}
    assert isinstance(answer["count"], int)


async def test_tokens_are_counted_by_the_server_and_never_estimated_lower(backend: Backend) -> None:
    texts = [
        "",
        "Hello, world!",
        "The quick brown fox jumps over the lazy dog. " * 50,
        "Съешь же ещё этих мягких французских булок, да выпей чаю.",
        "いろはにほへと ちりぬるを",
        "0123456789 " * 30,
        "3.14159 | 2.71828 | {'a': [1, 2, 3]}\n\n\t\tif x != y:\n",
        "QmFzZTY0IGlzIG5vdCBhIGxhbmd1YWdlLCBidXQgdG9rZW5pemVycyBtZWV0IGl0Lg==",
        "XQZ KJW VVQ zxq qzj",
        "🦙👩‍👩‍👧‍👦" * 5,
        "Donaudampfschifffahrtsgesellschaftskapitän grüßt übermütig",
    ]
    counted = await backend.count_tokens(texts, CALL)
    assert counted[0] == 0
    assert 3 <= counted[1] <= 6
    for text, real in zip(texts, counted, strict=True):
        assert real <= estimate(text), text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_over_the_context_is_named_so(backend: Backend, stream: bool) -> None:
    request = {"messages": [{"role": "user", "content": "word " * 3000}]}
    with pytest.raises(ContextLengthExceeded, match="2048 tokens"):
        await backend.chat(request, CALL, (lambda _: None) if stream else None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "nope"}, "does not serve the model 'nope'"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"messages": "Hello"}, "messages"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 7}}}}, "schema"),
    ],
)
async def test_a_wrong_request_is_refused_with_the_servers_reason(
    backend: Backend, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(BackendRejected, match=words):
        await backend.chat({**QUESTION, **change}, CALL)


async def test_texts_are_embedded(backend: Backend) -> None:
    reply = await backend.embed({"input": ["one", "two"]}, CALL)
    assert len(reply.body["data"]) == 2
    assert len(reply.body["data"][0]["embedding"]) == 576


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_frees_the_slot_of_a_busy_server_at_once(
    own_llama: LocalLlama, stream: bool
) -> None:
    async with (
        connected(own_llama.url) as backend,
        httpx.AsyncClient(base_url=own_llama.url, trust_env=False, timeout=60) as browser,
    ):

        async def until_long_answers_are(running: int, timeout_s: float) -> None:
            async with asyncio.timeout(timeout_s):
                while True:
                    slots = (await browser.get("/slots")).json()
                    working = [slot for slot in slots if slot["is_processing"]]
                    if sum(slot["params"]["n_predict"] == 1500 for slot in working) == running:
                        return

        async def keep_busy() -> None:
            while True:
                await backend.chat({**QUESTION, "max_tokens": 3}, CALL)

        noise = asyncio.create_task(keep_busy())
        task = asyncio.create_task(backend.chat(LONG, CALL, (lambda _: None) if stream else None))
        await until_long_answers_are(running=1, timeout_s=60)
        for ended in (task, noise):
            ended.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ended
        await until_long_answers_are(running=0, timeout_s=5)


@pytest.mark.parametrize(
    "loop",
    [{"grammar": 'root ::= "{" [ ]+'}, {"logit_bias": [[" international", 100]]}],
    ids=["blanks", "words"],
)
async def test_a_loop_is_cut_and_its_tokens_are_known(own_llama: LocalLlama, loop: dict[str, Any]) -> None:
    async with connected(own_llama.url) as backend:
        request = {**QUESTION, "max_tokens": 980, "ignore_eos": True, **loop}
        reply = await backend.chat(request, CALL)
        assert reply.finish_reason == "repetition"
        assert 400 < len(reply.text) < 2400
        assert 10 < reply.usage["completion_tokens"] < 900
        assert reply.usage["prompt_tokens"] > 5
        assert reply.ttft_s is not None


async def test_a_server_is_told_loading_ready_and_dead() -> None:
    with LocalLlama(slots=1, context=512) as server:
        async with connected(server.url) as backend:
            states = {(await backend.probe())[0].state}
            context = CallContext(deadline=time.monotonic() + 120)
            answer = asyncio.create_task(backend.chat(QUESTION, context))
            assert (await answer).text
            states.add((await backend.probe())[0].state)
            assert State.READY in states
            server.stop()
            [dead] = await backend.probe()
            assert dead.state is State.DOWN
            assert "Nothing answers" in dead.reason
            with pytest.raises(BackendUnavailable, match="Nothing answers"):
                await backend.chat(QUESTION, CallContext(deadline=time.monotonic() + 1))
