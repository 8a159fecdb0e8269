"""Finding how much a server can take: simulated servers, a simulated clock, no waiting."""

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from worker.backends.limit import FIRST_LIMIT, FoundLimit, KnownLimit

TOKENS = 100
Rate = Callable[[int], float]


def unlimited(latency_s: float) -> Rate:
    """As many as come, each as fast as alone."""
    return lambda count: count * TOKENS / latency_s


def slots(count: int, latency_s: float) -> Rate:
    """The same from so many on."""
    return lambda in_flight: min(in_flight, count) * TOKENS / latency_s


def degrading(past: int, latency_s: float) -> Rate:
    """Less and less beyond so many."""
    return lambda count: count * TOKENS / latency_s / max(1.0, count / past) ** 2


def saturating(half: float, most: float) -> Rate:
    """Ever less more for each more: half of the most at `half` in flight."""
    return lambda count: most * count / (count + half)


class World:
    """A server that divides its rate fairly, used as much as the limit lets.

    Args:
        rate: tokens a second with so many in flight.
        noise: how far the rate wanders about, a share of it.
        admits: more than so many are refused.
        busy: share of the limit in use.
    """

    def __init__(
        self,
        rate: Rate,
        *,
        most: int = 256,
        noise: float = 0.0,
        admits: int | None = None,
        busy: float = 1.0,
        seed: int = 1,
    ) -> None:
        self.now = 0.0
        self.limit = FoundLimit(most, lambda: self.now)
        self.answers: list[tuple[float, float]] = []
        self.refusals = 0
        self.tried = [self.limit.value]
        self._rate, self._admits, self._busy = rate, admits, busy
        self._noise, self._pace, self._paced_at = noise, 1.0, 0.0
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._running: list[tuple[float, int, float, float]] = []
        self._given = 0.0  # tokens that each request in flight has got

    def run(self, seconds: float) -> "World":
        until = self.now + seconds
        while self.now < until:
            self._send()
            ends_at, _, sent_at, tokens = heapq.heappop(self._running)
            each = self._rate(len(self._running) + 1) * self._wander() / (len(self._running) + 1)
            self.now += (ends_at - self._given) / each
            self._given = ends_at
            self.limit.answered(tokens, sent_at)
            self.limit.in_flight(len(self._running))
            self.answers.append((self.now, tokens))
            if self.tried[-1] != self.limit.value:
                self.tried.append(self.limit.value)
        return self

    def throughput(self, from_s: float) -> float:
        return sum(tokens for at, tokens in self.answers if at > from_s) / (self.now - from_s)

    def _send(self) -> None:
        while len(self._running) < max(1, int(self.limit.value * self._busy)):
            if self._admits is not None and len(self._running) >= self._admits:
                self.refusals += 1
                before = self.limit.value
                self.limit.refused(self.now)
                if self.limit.value >= before:
                    return
                continue
            tokens = self._random.uniform(0.5, 1.5) * TOKENS
            entry = (self._given + tokens, next(self._numbers), self.now, tokens)
            heapq.heappush(self._running, entry)
            self.limit.in_flight(len(self._running))

    def _wander(self) -> float:
        while self._paced_at < self.now:
            self._paced_at += 1.0
            self._pace = 1 + 0.7 * (self._pace - 1) + 0.7 * self._random.gauss(0, self._noise)
        return max(0.3, self._pace)


@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize(
    ("rate", "best"),
    [
        (degrading(48, 0.5), 48),
        (degrading(48, 2.0), 48),
        (degrading(150, 1.0), 150),
        (slots(8, 1.0), 8),
        (slots(100, 1.0), 100),
        (unlimited(0.5), 256),
        (unlimited(1.0), 256),
        (unlimited(5.0), 256),
        (saturating(6, 4000), 256),
    ],
    ids=[
        "48",
        "48 slow",
        "150",
        "8 slots",
        "100 slots",
        "unlimited",
        "unlimited slow",
        "slowest",
        "saturating",
    ],
)
def test_after_a_minute_it_brings_nearly_what_the_best_limit_would(
    rate: Rate, best: int, noise: float
) -> None:
    worlds = [World(rate, noise=noise, seed=seed).run(120) for seed in range(3)]
    shares = [world.throughput(60) / rate(best) for world in worlds]
    assert sorted(shares)[1] >= 0.95
    assert min(shares) >= 0.85


def test_the_limit_of_an_unlimited_server_doubles_until_the_process_holds_no_more() -> None:
    world = World(unlimited(1.0), most=200).run(8)
    assert world.tried == [32, 64, 128, 200]
    assert world.run(120).limit.value == 200


def test_a_server_that_was_full_from_the_start_gets_no_more_than_it_works_on() -> None:
    assert World(slots(8, 1.0)).run(60).limit.value < 16


def test_a_limit_that_is_not_used_up_is_not_changed() -> None:
    world = World(unlimited(1.0), busy=0.5).run(100)
    assert world.tried == [FIRST_LIMIT]


def test_a_batch_lane_that_leaves_slots_free_uses_it_up_nevertheless() -> None:
    assert World(unlimited(1.0), busy=7 / 8).run(30).limit.value == 256


def test_a_server_that_refuses_is_asked_for_less_and_seldom_for_more() -> None:
    world = World(unlimited(1.0), admits=50).run(180)
    assert world.throughput(60) >= 0.85 * 50 * TOKENS
    assert world.refusals <= 30


def test_a_server_that_refuses_everything_ends_at_one() -> None:
    world = World(unlimited(1.0))
    for _ in range(12):
        world.now += 0.1
        world.limit.refused(world.now)
    assert world.limit.value == 1


def test_refusals_of_one_round_trip_count_once() -> None:
    world = World(unlimited(1.0))
    for _ in range(20):
        world.now += 0.1
        world.limit.refused(0.1)
    assert world.limit.value == int(FIRST_LIMIT * 0.7)


def test_a_server_where_requests_wait_gets_no_more() -> None:
    world = World(unlimited(1.0))
    world.limit.queued(1)
    world.limit.queued(3)
    world.run(20)
    assert max(world.tried) == FIRST_LIMIT
    world.limit.queued(0)
    assert max(world.run(5).tried) > FIRST_LIMIT


def test_a_pause_of_hours_does_not_spoil_what_is_measured() -> None:
    world = World(unlimited(1.0))
    world.now = 20_000.0
    assert world.run(8).limit.value == 256


def test_a_known_limit_gives_way_to_refusals_and_comes_back() -> None:
    now = 0.0
    limit = KnownLimit(64, lambda: now)
    limit.refused(0.0)
    limit.refused(0.0)
    assert limit.value == int(64 * 0.7)
    for _ in range(64 * 10):
        limit.answered(1.0, now)
    assert limit.value == 64
