"""How many requests a server gets at once: a number that is known, or one that is found by measuring.

What is looked for is the limit with the most throughput. The search starts like TCP (RFC 5681): slow start,
the limit doubling while that pays. Then it climbs: the neighbours of the best limit are tried in ever smaller
steps (compass search), the best is kept for a while, and its neighbours are tried again. That looking at
throughput finds the knee of a server which nobody can configure is the idea of TCP Vegas and of Netflix'
concurrency-limits; they compare latencies, which say little where answers are of any length.

Throughput is measured by Little's law, N = X · R: requests in flight, times the work of an answer, divided by
its duration. Unlike counting answers a second, this does not mind that they come in bursts.
"""

import math
import time
from collections.abc import Callable, Generator
from typing import Protocol

#: Where the search starts; a server that batches at all takes so many.
FIRST_LIMIT = 32
#: A round measures at least so many answers and seconds.
ROUND_ANSWERS, ROUND_S = 8, 0.5
#: A round tells something about its limit only if so much of it was in use.
USED = 0.7
#: Slow start goes on at once where doubling brings this much more at first sight, on a second look where it
#: brings that: at first the additional requests find shorter queues than the next ones will.
PAYS_AT_SIGHT, PAYS = 1.25, 1.05
#: The first and the finest step between neighbours, and the first one when looking around again later.
FIRST_STEP, LATER_STEP, FINEST_STEP = 2**0.5, 2**0.25, 1.03
#: A neighbour is better with so much more throughput, more than noise.
BETTER = 1.02
#: Where doubling brought less than this, the server was full before: smaller limits with nearly as much
#: throughput are better then, for less waits inside the server, where no lane goes first.
WAS_FULL, NEARLY = 1.02, 0.97
#: Seconds until the neighbours of the best limit are tried again.
HOLD_S = 60.0
#: What is left of a limit that was refused, and which part of a known one comes back a round trip.
REFUSED, INCREASE = 0.7, 16


class Limit(Protocol):
    """The most requests one server is to have in flight, told what happens to them."""

    value: int

    def in_flight(self, count: int) -> None:
        """So many requests are in flight from now on."""
        ...

    def answered(self, work: float, sent_at: float) -> None:
        """A request sent then (`time.monotonic()`) was answered well and brought this work, in tokens."""
        ...

    def refused(self, sent_at: float) -> None:
        """A request sent then was refused because the server is full."""
        ...

    def queued(self, count: int) -> None:
        """The server says that so many requests wait inside it."""
        ...


class KnownLimit:
    """A limit that was set or that the server told; less for a while after a refusal, for others use it too.

    Additive increase, multiplicative decrease (Chiu and Jain, 1989).

    Args:
        most: the limit.
        clock: seconds, monotonic.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.value = self._most = most
        self._clock = clock
        self._answers = 0
        self._changed_at = -math.inf

    def in_flight(self, count: int) -> None:
        """Nothing to learn."""

    def answered(self, work: float, sent_at: float) -> None:
        """As `Limit.answered` says; as many as the limit let it grow."""
        if self.value == self._most:
            return
        self._answers += 1
        if self._answers >= self.value:
            self.value = min(self._most, self.value + max(1, self._most // INCREASE))
            self._answers = 0

    def refused(self, sent_at: float) -> None:
        """As `Limit.refused` says; many requests refused in one round trip count once."""
        if sent_at > self._changed_at:
            self.value = max(1, int(self.value * REFUSED))
            self._answers, self._changed_at = 0, self._clock()

    def queued(self, count: int) -> None:
        """Nothing to learn."""


class FoundLimit:
    """A limit that is found while the server works.

    Args:
        most: no limit above it is tried.
        clock: seconds, monotonic.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.value = min(FIRST_LIMIT, most)
        self._most = most
        self._clock = clock
        self._count = 0
        self._queued = self._queued_before = 0
        self._best_per_slot, self._least = 0.0, most
        self._changed_at = -math.inf
        self._began_at = self._used_at = clock()
        self._unsettled = self._answers = 0
        self._used = self._work = self._seconds = 0.0
        self._search = self._find()
        next(self._search)

    def in_flight(self, count: int) -> None:
        """As `Limit.in_flight` says."""
        now = self._clock()
        if self._count == 0 and now - self._used_at > ROUND_S:
            self._begin(now)  # what was measured before the pause is not half of anything
        self._used += self._count * (now - self._used_at)
        self._used_at, self._count = now, count

    def answered(self, work: float, sent_at: float) -> None:
        """As `Limit.answered` says; the last answer of a round takes the search one step further."""
        if self._unsettled > 0:
            self._unsettled -= 1
            if self._unsettled == 0:
                self._begin(self._clock())
            return
        if sent_at < self._began_at:
            return  # it ran beside more or fewer than this limit lets
        now = self._clock()
        self._answers += 1
        self._work += work
        self._seconds += now - sent_at
        lasted_s = now - self._began_at
        if self._answers < max(ROUND_ANSWERS, self.value // 2) or lasted_s < ROUND_S or not self._seconds:
            return
        at_once = (self._used + self._count * (now - self._used_at)) / lasted_s
        if at_once < USED * self.value:
            self._begin(now)
            return
        throughput = at_once * self._work / self._seconds
        self._best_per_slot = max(self._best_per_slot, throughput / self.value)
        self._least = min(self._least, self.value)
        self._next_round(self._search.send(throughput))

    def refused(self, sent_at: float) -> None:
        """As `Limit.refused` says; many requests refused in one round trip count once."""
        if sent_at > self._changed_at:
            self._changed_at = self._clock()
            self._next_round(self._search.send(0.0))

    def queued(self, count: int) -> None:
        """As `Limit.queued` says; what waits only for a moment does not count."""
        self._queued_before, self._queued = self._queued, count

    @property
    def _ceiling(self) -> int:
        """No limit above it is to be tried now."""
        return self.value if self._queued and self._queued_before else self._most

    def _next_round(self, limit: int) -> None:
        """Measure this limit next; where small differences count, once requests run beside so many others."""
        now, before, self.value = self._clock(), self.value, limit
        self._begin(now)
        if limit != before:
            self._changed_at = now
        if limit != before and limit != 2 * before:
            self._unsettled = max(0, self._count - limit) + max(1, limit // 8)

    def _begin(self, now: float) -> None:
        self._began_at = self._used_at = now
        self._unsettled = self._answers = 0
        self._used = self._work = self._seconds = 0.0

    # The search: generators that yield a limit and are sent its throughput, 0 where the server refused it.

    def _find(self) -> Generator[int, float, None]:
        limit, rates = yield from self._slow_start()
        was_full = rates.get(2 * limit, math.inf) < rates[limit] * WAS_FULL
        if limit < self._most:
            limit = yield from self._climb(limit, rates, FIRST_STEP, NEARLY if was_full else BETTER)
        while True:
            best, until = limit, self._clock() + HOLD_S
            while self._clock() < until and limit == best:
                limit, rates = yield from self._stand(limit)
            limit = yield from self._climb(limit, rates, LATER_STEP, BETTER)

    def _stand(self, limit: int) -> Generator[int, float, tuple[int, dict[int, float]]]:
        """The throughput of a limit, lowered until the server takes it."""
        while not (rate := (yield limit)):
            limit = max(1, int(limit * REFUSED))
        return limit, {limit: rate}

    def _slow_start(self) -> Generator[int, float, tuple[int, dict[int, float]]]:
        """Double while that pays, but not while requests wait inside the server; returns the best so far."""
        limit, rates = yield from self._stand(self.value)
        while limit < self._most:
            if self._ceiling == limit:
                limit, rates = yield from self._stand(limit)
                continue
            tried = min(2 * limit, self._most)
            rates[tried] = yield tried
            if rates[limit] < rates[tried] < rates[limit] * PAYS_AT_SIGHT:
                rates[tried] = yield tried
            if rates[tried] < rates[limit] * PAYS:
                break
            limit = tried
        return limit, rates

    def _climb(
        self, limit: int, rates: dict[int, float], step: float, less: float
    ) -> Generator[int, float, int]:
        """The best limit near this one.

        Args:
            limit: the best so far.
            rates: throughputs already found.
            step: to the first neighbours, a factor.
            less: what share of the throughput makes a smaller limit better in steps as large as the first.
        """
        tops = {limit}
        while step > FINEST_STEP:
            for tried in self._neighbours(limit, step):
                wanted = rates[limit] * (less if tried < limit and step == FIRST_STEP else BETTER)
                if tried in tops or not self._may_bring(tried, limit, wanted):
                    continue
                if tried not in rates:
                    rates[tried] = yield tried
                if rates[tried] > wanted:
                    limit = tried
                    tops.add(limit)
                    break
            else:
                step = step**0.5
        return limit

    def _neighbours(self, limit: int, step: float) -> tuple[int, int]:
        less, more = min(limit - 1, round(limit / step)), max(limit + 1, round(limit * step))
        return max(1, less), min(more, max(limit, self._ceiling))

    def _may_bring(self, tried: int, limit: int, wanted: float) -> bool:
        """Whether a smaller limit can: a slot brings most where few are in use, which bounds what all do."""
        return tried > limit or tried < self._least or self._best_per_slot * tried >= wanted
