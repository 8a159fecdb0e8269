"""Who waits for a slot and who is next: interactive work before the rest, batch work last, nobody for ever.

Batch work leaves some slots of every server free: who comes while it runs need not wait for one to end.
"""

from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from typing import Generic, Protocol, TypeVar

#: Every so manyth free slot goes to who waits longest behind the first lane: the least share of the others.
LOWER_LANES_SHARE = 8
#: Batch work leaves one slot in so many free, and at least one; but none where a server has fewer slots than
#: the second number, since each is too much of it: there interactive work is only first to get the next one.
RESERVED_SHARE, LEAST_TO_RESERVE = 8, 4


class Lane(IntEnum):
    """How urgent a call is; the most urgent first."""

    INTERACTIVE = 0
    DEFAULT = 1
    BATCH = 2

    @classmethod
    def of(cls, queue: str) -> "Lane":
        """The lane of a task's queue; queues of other names are DEFAULT."""
        return _LANES.get(queue, cls.DEFAULT)


_LANES = {"interactive": Lane.INTERACTIVE, "batch": Lane.BATCH}


def batch_share(limit: int) -> int:
    """The most of `limit` slots that batch calls may hold at once."""
    return limit if limit < LEAST_TO_RESERVE else limit - max(1, limit // RESERVED_SHARE)


class Waiter(Protocol):
    """One who waits.

    Attributes:
        lane: where.
        since: when it came; seconds of any clock.
    """

    lane: Lane
    since: float


W = TypeVar("W", bound=Waiter)


class Lanes(Generic[W]):
    """Everybody who waits, a queue a lane."""

    def __init__(self) -> None:
        self._queues: tuple[deque[W], ...] = tuple(deque() for _ in Lane)
        self._passed_over = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def add(self, waiter: W, *, first: bool = False) -> None:
        """Let one wait, in front of its lane with `first`."""
        queue = self._queues[waiter.lane]
        (queue.appendleft if first else queue.append)(waiter)

    def discard(self, waiter: W) -> None:
        """Let one leave who may have left already."""
        queue = self._queues[waiter.lane]
        if waiter in queue:
            queue.remove(waiter)

    def serve(self, waiter: W) -> None:
        """Let one leave who got a slot, and remember whom it was preferred to."""
        if any(self._queues[: waiter.lane]):
            self._passed_over = 0
        elif any(self._queues[waiter.lane + 1 :]):
            self._passed_over += 1
        self.discard(waiter)

    def empty_to(self, lane: Lane) -> bool:
        """Whether nobody waits in this lane or one before it."""
        return not any(self._queues[: lane + 1])

    def in_turn(self) -> Iterator[deque[W]]:
        """The lanes where somebody waits, in the order in which the next free slot is offered to them."""
        waiting = [queue for queue in self._queues if queue]
        if len(waiting) > 1 and self._passed_over >= LOWER_LANES_SHARE - 1:
            due = min(waiting[1:], key=lambda queue: queue[0].since)
            yield due
            waiting = [queue for queue in waiting if queue is not due]
        yield from waiting

    def clear(self) -> list[W]:
        """Send everybody away; returns them."""
        everybody = [waiter for queue in self._queues for waiter in queue]
        for queue in self._queues:
            queue.clear()
        return everybody
