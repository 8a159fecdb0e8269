"""Who waits for a slot and who is next: interactive work before the rest, batch work last, nobody for ever.

Batch work leaves some slots of every server free: who comes while it runs need not wait for one to end.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Generic, Protocol, TypeVar

#: Every so manyth free slot goes to who waits longest behind the first lane: the least share of the others.
LOWER_LANES_SHARE = 8
#: Batch work leaves one slot in so many free, and up to one in so many where interactive work needs more; at
#: least one, but none where a server has fewer slots than the last number, since each is too much of it:
#: there interactive work is only first to get the next one.
RESERVED_SHARE, MOST_RESERVED_SHARE, LEAST_TO_RESERVE = 8, 4, 4
#: So many, or all but one, while somebody chats and so many seconds after: on a server of few slots, which
#: computes on a CPU or a small GPU, every call slows all others: a first token comes late although there is
#: a slot.
RESERVED_OF_FEW, STAYS_S = 3, 30.0
#: Free slots for calls that come at random: their mean number and so many times its square root. With 3, one
#: call in 300 finds all of them taken.
MARGIN = 3.0
#: Seconds over which that mean is taken.
MEAN_OVER_S = 5.0


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


class Reserve:
    """How many slots of a server batch calls leave free, by how many interactive calls there were of late.

    Square-root staffing (Halfin and Whitt, 1981).

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count, self._mean, self._at = 0, 0.0, -math.inf

    def interactive(self, change: int) -> None:
        """So many more interactive calls are in flight from now on."""
        self._mean, self._at = self._mean_now(), self._clock()
        self._count += change

    def of(self, limit: int) -> int:
        """Of `limit` slots, those that batch calls leave free now."""
        if limit < LEAST_TO_RESERVE:
            return 0
        mean = self._mean_now()
        wanted = math.ceil(mean + MARGIN * math.sqrt(mean))
        wanted = min(wanted, limit // MOST_RESERVED_SHARE)
        if self._count or self._clock() - self._at < STAYS_S:
            wanted = max(wanted, min(limit - 1, RESERVED_OF_FEW))
        return max(1, limit // RESERVED_SHARE, wanted)

    def _mean_now(self) -> float:
        share = math.exp((self._at - self._clock()) / MEAN_OVER_S)  # 0 before the first
        return share * self._mean + (1 - share) * self._count


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
