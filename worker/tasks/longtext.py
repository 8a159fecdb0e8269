"""Texts longer than the model's context: cut on structure, worked on side by side."""

import asyncio
import math
import re
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from typing import TypeVar

from worker.backends.base import Capabilities
from worker.tasks.base import Work

Item = TypeVar("Item")
Result = TypeVar("Result")
CountTokens = Callable[[Sequence[str]], Awaitable[list[int]]]

#: Where a text may be cut, best first; the cut is at the end of the match.
_CUTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\n(?=#{1,6} )",  # before a Markdown heading
        r"\n\s*\n",  # after a paragraph
        r"[.!?…][\"'»\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f]|\n",  # after a sentence or a line
        r"\s+",  # after a word
    )
)
_LOOKAHEAD_CHARS = 8

#: Share of the budget that pieces aim at: between the probes, token counts are interpolated.
_AIM = 0.9

_MOST_AT_ONCE = 16


async def split(text: str, budget: int, count_tokens: CountTokens) -> list[str]:
    """Cut a text into pieces of at most `budget` tokens, nearly full; joined they are the text again.

    Cuts are made before headings, after paragraphs, sentences or words, and inside a word only where it is
    longer than a piece. The work grows with the length of the text: its tokens are counted twice.

    Args:
        text: any text.
        budget: most tokens of a piece; a piece of one character may have more.
        count_tokens: tokens of each of several texts.
    """
    if len(text.encode()) <= budget:  # no tokenizer makes more tokens than there are bytes
        return [text]
    probes = [text[start : start + budget] for start in range(0, len(text), budget)]
    density = _Density(budget, len(text), await count_tokens(probes))
    pieces: list[tuple[str, int | None]] = [
        (piece, None) for piece in _cut_evenly(text, density, _AIM * budget)
    ]
    while unknown := [piece for piece, count in pieces if count is None]:
        counted = iter(await count_tokens(unknown))
        measured = [(piece, next(counted) if count is None else count) for piece, count in pieces]
        pieces = []
        for piece, count in measured:
            if count <= budget or len(piece) == 1:
                pieces.append((piece, count))
            else:
                pieces += [(half, None) for half in _halve(piece)]
    return [piece for piece, _ in pieces]


class _Density:
    """Tokens up to each character of a text, interpolated between probes.

    Args:
        step: characters of a probe.
        length: characters of the text.
        counts: tokens of each probe.
    """

    def __init__(self, step: int, length: int, counts: Sequence[int]) -> None:
        self._ends = [min(number * step, length) for number in range(len(counts) + 1)]
        self._tokens = list(accumulate(counts, initial=0))
        self.total = self._tokens[-1]

    def tokens(self, position: int) -> float:
        """Tokens before a character."""
        return _interpolate(position, self._ends, self._tokens)

    def position(self, tokens: float) -> int:
        """The character before which there are so many tokens."""
        return int(_interpolate(tokens, self._tokens, self._ends))


def _interpolate(value: float, known: Sequence[int], results: Sequence[int]) -> float:
    """`results` at `value`, linear between the points of `known`, which rises."""
    right = min(max(bisect_right(known, value), 1), len(known) - 1)
    width = known[right] - known[right - 1]
    share = (value - known[right - 1]) / width if width else 1.0
    return results[right - 1] + min(share, 1.0) * (results[right] - results[right - 1])


def _cut_evenly(text: str, density: _Density, aim: float) -> list[str]:
    """The text in as few pieces of about equal size as `aim` tokens a piece allow."""
    pieces: list[str] = []
    start = 0
    while True:
        before = density.tokens(start)
        left = math.ceil((density.total - before) / aim)
        if left <= 1 or start >= len(text) - 1:
            return [*pieces, text[start:]]
        share = (density.total - before) / left
        earliest, ideal, latest = (
            min(max(density.position(before + share * part), start + 1), len(text) - 1)
            for part in (0.8, 1, 1.05)
        )
        cut = _best_cut(text, earliest, ideal, latest)
        pieces.append(text[start:cut])
        start = cut


def _halve(piece: str) -> tuple[str, str]:
    middle = len(piece) // 2
    cut = _best_cut(piece, max(1, len(piece) // 3), middle, max(middle, len(piece) * 2 // 3))
    return piece[:cut], piece[cut:]


def _best_cut(text: str, earliest: int, ideal: int, latest: int) -> int:
    """The last cut of the best kind between two positions; `ideal` where there is none of any kind."""
    for kind in _CUTS:
        ends = [match.end() for match in kind.finditer(text, earliest - 1, latest + _LOOKAHEAD_CHARS)]
        if inside := [end for end in ends if earliest <= end <= latest]:
            return inside[-1]
    return ideal


class Steps:
    """Progress of work in many steps; work in one reports none.

    Args:
        work: whose progress it is.
        unit: what the steps are.
    """

    def __init__(self, work: Work, unit: str = "chunks") -> None:
        self._work, self._unit = work, unit
        self.done = 0
        self._total = 0

    async def expect(self, more: int) -> None:
        """So many calls are still to come, as far as is known now."""
        self._total = self.done + more
        await self._work.progress(self.done, self._total, self._unit)

    async def step(self) -> None:
        """One call is done."""
        self.done += 1
        if self._total:
            self._total = max(self._total, self.done)
            await self._work.progress(self.done, self._total, self._unit)


def at_once(capabilities: Capabilities) -> int:
    """Calls one task keeps in flight: enough to fill the server's slots, yet leaving room for others."""
    return min(2 * capabilities.slots, _MOST_AT_ONCE) if capabilities.slots else _MOST_AT_ONCE


async def map_calls(
    items: Sequence[Item], call: Callable[[Item], Awaitable[Result]], most: int, steps: Steps
) -> list[Result]:
    """`call` on every item, at most `most` side by side; results in the order of the items.

    The first failure cancels the others and is raised.
    """
    results: dict[int, Result] = {}
    queue = iter(enumerate(items))

    async def lane() -> None:
        for number, item in queue:
            results[number] = await call(item)
            await steps.step()

    try:
        async with asyncio.TaskGroup() as lanes:
            for _ in range(min(most, len(items))):
                lanes.create_task(lane())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [results[number] for number in range(len(items))]
