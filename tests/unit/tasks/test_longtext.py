"""A text longer than the context is cut on structure, loses nothing, and is worked on side by side."""

import asyncio
import math
import re
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.errors import BackendUnavailable
from worker.tasks.longtext import Steps, map_calls, split

TOKEN = re.compile(r"\s*\S{1,6}|\s+")


class Tokenizer:
    """Counts tokens, and what it was asked to count."""

    def __init__(self, count: Callable[[str], int]) -> None:
        self.count = count
        self.characters = 0

    async def __call__(self, texts: Sequence[str]) -> list[int]:
        self.characters += sum(map(len, texts))
        return [self.count(text) for text in texts]


TOKENIZERS = {
    "words": lambda text: sum(1 for _ in TOKEN.finditer(text)),
    "bytes": lambda text: len(text.encode()),
    "dense letters": lambda text: sum(1 if character.isascii() else 2 for character in text),
    "one more for the beginning": lambda text: 1 + len(text) // 4,
}

TEXTS = st.lists(
    st.one_of(
        st.text(max_size=200),
        st.text(alphabet="ab .\n#", max_size=300),
        st.sampled_from(
            ["word " * 40, "x" * 300, "# Heading\n\n", "żółć " * 30, "今天天气很好。" * 20, "\n" * 50]
        ),
    ),
    max_size=15,
).map("".join)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, budget=st.integers(8, 400))
@example(text="", budget=8)
@example(text="\n" * 1000, budget=8)
async def test_joined_the_pieces_are_the_text_and_none_is_over_budget(tokenizer, text, budget):
    count = TOKENIZERS[tokenizer]
    pieces = await split(text, budget, Tokenizer(count))
    assert "".join(pieces) == text
    assert all(count(piece) <= budget for piece in pieces)
    assert all(pieces) or pieces == [""]


def article(paragraphs: int) -> str:
    parts = []
    for number in range(paragraphs):
        if number % 7 == 0:
            parts.append(f"## Part {number}")
        parts.append(f"Sentence {number} of the story is here. It says little. " * (3 + number % 5))
    return "\n\n".join(parts)


async def test_pieces_are_nearly_full():
    text, count = article(400), TOKENIZERS["words"]
    pieces = await split(text, 500, Tokenizer(count))
    assert len(pieces) <= math.ceil(count(text) / (0.8 * 500))


async def test_cuts_are_made_where_the_structure_is():
    pieces = await split(article(400), 500, Tokenizer(TOKENIZERS["words"]))
    assert all(piece.endswith("\n") for piece in pieces[:-1])
    assert sum(piece.startswith("## ") for piece in pieces) > len(pieces) / 2


async def test_words_are_whole_where_there_are_no_sentences():
    pieces = await split("word " * 5000, 300, Tokenizer(TOKENIZERS["words"]))
    assert all(piece.endswith("word ") for piece in pieces)


async def test_a_word_of_a_megabyte_is_cut():
    text = "x" * 1_000_000
    pieces = await split(text, 1500, Tokenizer(lambda part: len(part) // 3))
    assert "".join(pieces) == text
    assert len(pieces) < 300


async def test_dense_and_thin_parts_get_pieces_of_their_own_size():
    text = "word " * 20_000 + "今天天气很好。" * 5_000 + "word " * 20_000
    count = TOKENIZERS["dense letters"]
    pieces = await split(text, 1000, Tokenizer(count))
    assert all(count(piece) <= 1000 for piece in pieces)
    assert len(pieces) <= math.ceil(count(text) / (0.75 * 1000))


async def test_a_million_words_are_counted_only_a_few_times():
    text = "Some words make one sentence. " * 200_000
    tokenizer = Tokenizer(lambda part: len(part) // 4 + 1)
    began = time.process_time()
    pieces = await split(text, 1500, tokenizer)
    assert "".join(pieces) == text
    assert tokenizer.characters <= 2.2 * len(text)
    assert time.process_time() - began < 10


class Watched:
    """Stands where a task's run stands, and keeps its progress."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, str]] = []

    async def progress(self, done: int, total: int, unit: str) -> None:
        self.seen.append((done, total, unit))


async def test_calls_run_side_by_side_within_the_limit_and_keep_their_order():
    running = most = 0
    arrived = asyncio.Condition()

    async def call(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        async with arrived:
            arrived.notify_all()
            await arrived.wait_for(lambda: most == 4)
        running -= 1
        return number * 2

    watched = Watched()
    steps = Steps(watched)  # type: ignore[arg-type]
    await steps.expect(20)
    assert await map_calls(range(20), call, 4, steps) == [number * 2 for number in range(20)]
    assert most == 4
    assert [done for done, _, _ in watched.seen] == list(range(21))
    assert {unit for _, _, unit in watched.seen} == {"chunks"}


async def test_the_first_failure_cancels_the_others_and_is_raised_itself():
    cancelled = []
    started = asyncio.Event()

    async def call(number: int) -> int:
        if number == 1:
            await started.wait()
            raise BackendUnavailable("gone.")
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    with pytest.raises(BackendUnavailable, match="gone"):
        await map_calls(range(10), call, 3, Steps(Watched()))  # type: ignore[arg-type]
    assert sorted(cancelled) == [0, 2]


async def test_cancelling_the_task_cancels_its_calls():
    inside = asyncio.Event()
    ended = []

    async def call(number: int) -> None:
        inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    task = asyncio.create_task(map_calls(range(5), call, 2, Steps(Watched())))  # type: ignore[arg-type]
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == [0, 1]
