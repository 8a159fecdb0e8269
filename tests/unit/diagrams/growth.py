"""How the time of some work grows with its input."""

import time
from collections.abc import Callable

#: Four times the input takes four times the time; sixteen times, where the work is quadratic.
MOST_GROWTH = 8


def growth(work: Callable[[int], object], size: int) -> float:
    """time(4 · size) / time(size), by the shortest runs: whatever else runs only makes them longer."""
    least = float("inf")
    for _ in range(3):
        once, more = (min(_seconds(work, times * size) for _ in range(5)) for times in (1, 4))
        least = min(least, more / once)
        if least < MOST_GROWTH:
            break
    return least


def _seconds(work: Callable[[int], object], size: int) -> float:
    began = time.perf_counter()
    work(size)
    return time.perf_counter() - began
