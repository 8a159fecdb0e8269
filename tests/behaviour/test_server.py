"""What is found out about an engine, and what the backend makes of it."""

import pytest

from worker.backends.base import Backend, CallContext, Chunk, State

pytestmark = pytest.mark.timeout(300)

CALL = CallContext(task_id="behaviour")
QUESTION = {
    "messages": [{"role": "user", "content": "Name three rivers."}],
    "max_tokens": 24,
    "temperature": 0,
    "seed": 7,
}


async def test_a_server_that_has_loaded_its_model_is_ready(engine, backend: Backend) -> None:
    (found,) = await backend.probe()
    assert (found.url, found.state, found.reason) == (engine.url, State.READY, "")


async def test_its_program_slots_context_and_abilities_are_found_out(engine, backend: Backend) -> None:
    found = await backend.capabilities(CALL)
    expected = engine.expected
    assert found.server == expected.server
    assert found.slots == expected.slots
    assert found.context_length == 2048
    assert found.structured == expected.structured
    assert found.embeddings is expected.embeddings
    assert found.tokenizer
    assert found.model in found.models


async def test_the_server_counts_tokens(backend: Backend) -> None:
    short, long, unicode = await backend.count_tokens(
        ["Name three rivers.", "river " * 500, "Zażółć gęślą jaźń"], CALL
    )
    assert 4 <= short <= 6
    assert 500 <= long <= 503
    assert 12 <= unicode <= 30


async def test_streamed_pieces_are_the_whole_answer(engine, backend: Backend) -> None:
    pieces: list[Chunk] = []
    streamed = await backend.chat(QUESTION, CALL, pieces.append)
    whole = await backend.chat(QUESTION, CALL)
    assert len(pieces) > 5
    assert "".join(piece.text for piece in pieces) == streamed.text
    assert streamed.text.strip()
    assert streamed.finish_reason == whole.finish_reason == "length"
    assert whole.usage["completion_tokens"] == 24
    for counted in ("prompt_tokens", "completion_tokens") if engine.expected.counts_streams else ():
        assert streamed.usage[counted] == whole.usage[counted]
    assert streamed.ttft_s is not None
    assert streamed.ttft_s < streamed.total_s
    if engine.expected.repeats:
        assert streamed.text == whole.text
