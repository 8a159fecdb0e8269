"""What is known of one server, and how much it gets: its limit, less after a pause, none while it rests."""

import asyncio
import random
import time
from dataclasses import dataclass, field

from worker.backends.base import Capabilities, Readiness, ServerLoad, State
from worker.backends.lanes import Lane, Reserve
from worker.backends.limit import KnownLimit, Limit
from worker.backends.openai_compatible import OpenAIClient

#: A server that says it is full is left alone for a random part of this, doubling up to the most; seconds.
REST_S, MOST_REST_S = 0.2, 10.0


def backoff_s(times: int, first_s: float, most_s: float) -> float:
    """A random wait that doubles with `times`, between half of it and all of it; seconds."""
    whole_s = min(most_s, first_s * 2.0 ** min(times, 30))
    return random.uniform(whole_s / 2, whole_s)  # noqa: S311


class Ramp:
    """Lets work back to a server that was away: one request, then twice as many for each set answered."""

    def __init__(self) -> None:
        self._most: int | None = None
        self._answers = 0

    def restart(self) -> None:
        """Begin with one again."""
        self._most, self._answers = 1, 0

    def at_most(self, limit: int) -> int:
        """What is left of a limit now."""
        return limit if self._most is None else min(limit, self._most)

    def answered(self, limit: int) -> None:
        """A request was answered well; the ramp ends where it reaches the limit."""
        if self._most is None:
            return
        self._answers += 1
        if self._answers >= self._most:
            self._most, self._answers = 2 * self._most, 0
            if self._most >= limit:
                self._most = None


@dataclass(eq=False, slots=True)
class Server:
    """One server.

    Attributes:
        client: speaks to it.
        readiness: as last found.
        capabilities: as found when it last became ready; kept while it is down.
        embeddings: whether it embeds; None until asked.
        limiter: finds or knows the most requests in flight.
        ramp: what lets it have fewer after it was away.
        reserve: the slots batch calls leave free.
        in_flight: requests in flight, or slots lent; `in_flight_batch` those of the batch lane.
        rests_until: `time.monotonic()` before which it gets no new request.
        heard_at: `time.monotonic()` of its last answer, or of the first request after a pause.
        failed: the tasks whose answers failed, since one did not.
        downs: times in a row it went down, was put aside or refused us.
        was_away: whether it has been seen not ready.
        rejects: whether it said that it will never serve us as we are.
        tells_queue: whether it can say how many requests wait inside it.
        probes, refusals: how often it was asked whether it takes work, and how often it said it is full.
        watcher, checker, listener, asking: the tasks that wait for it to become ready, make sure that it
            still is, hear how many requests wait inside it, find out whether it embeds.
        asked: set once it has been asked, whatever it said.
    """

    client: OpenAIClient
    readiness: Readiness
    capabilities: Capabilities | None = None
    embeddings: bool | None = None
    limiter: Limit = field(default_factory=lambda: KnownLimit(0))
    ramp: Ramp = field(default_factory=Ramp)
    reserve: Reserve = field(default_factory=Reserve)
    in_flight: int = 0
    in_flight_batch: int = 0
    rests_until: float = 0.0
    heard_at: float = 0.0
    failed: set[str] = field(default_factory=set)
    downs: int = 0
    was_away: bool = False
    rejects: bool = False
    tells_queue: bool = False
    probes: int = 0
    refusals: int = 0
    watcher: asyncio.Task[None] | None = None
    checker: asyncio.Task[None] | None = None
    listener: asyncio.Task[None] | None = None
    asking: asyncio.Task[None] | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    last_turn: int = 0

    @property
    def ready(self) -> bool:
        """Whether it takes work, now or when a slot is free."""
        return self.readiness.state is State.READY

    @property
    def known(self) -> Capabilities:
        """What was found out when it became ready; only asked of servers that have been."""
        if self.capabilities is None:
            raise LookupError(f"{self.client.url} has never been ready")
        return self.capabilities

    @property
    def limit(self) -> int:
        """Most requests in flight now."""
        return self.ramp.at_most(self.limiter.value)

    def has_room(self, lane: Lane) -> bool:
        """Whether a call of this lane may be sent now."""
        limit = self.limit
        if self.in_flight >= limit:
            return False
        return lane is not Lane.BATCH or self.in_flight_batch < limit - self.reserve.of(limit)

    def lend(self, lane: Lane, now: float, turn: int) -> None:
        """Take a slot."""
        if not self.in_flight:
            self.heard_at = now
        self._count(lane, 1)
        self.last_turn = turn

    def give_back(self, lane: Lane) -> None:
        """Return a slot."""
        self._count(lane, -1)

    def heard(self, now: float) -> None:
        """It answers, if only to say that a request is wrong."""
        self.heard_at = now
        self.failed.clear()

    def answered(self, work: float, sent_at: float, now: float) -> None:
        """It works: what goes wrong next starts small again."""
        self.heard(now)
        self.downs = 0
        self.limiter.answered(work, sent_at)
        self.ramp.answered(self.limiter.value)

    def refused(self, sent_at: float, retry_after_s: float) -> float:
        """It is full: leave it alone as long as it asked, or a growing while; returns seconds.

        Many requests refused together count as one refusal. Refusals without an answer between them say
        nothing of the limit: the server refuses whatever comes.
        """
        now = time.monotonic()
        self.refusals += 1
        if not self.downs:
            self.limiter.refused(sent_at)
        if now >= self.rests_until:
            self.rests_until = now + backoff_s(self.downs, REST_S, MOST_REST_S)
            self.downs += 1
            self.ramp.restart()
        self.rests_until = max(self.rests_until, now + retry_after_s)
        return self.rests_until - now

    def stalled(self, now: float, patience_s: float) -> bool:
        """Whether it works on something and has not answered anybody for too long."""
        return self.in_flight > 0 and now - self.heard_at > patience_s

    def _count(self, lane: Lane, change: int) -> None:
        self.in_flight += change
        if lane is Lane.BATCH:
            self.in_flight_batch += change
        elif lane is Lane.INTERACTIVE:
            self.reserve.interactive(change)
        self.limiter.in_flight(self.in_flight)

    def report(self, waiting: int) -> ServerLoad:
        """For metrics and status."""
        return ServerLoad(
            url=self.client.url,
            state=self.readiness.state,
            limit=self.limit if self.ready else 0,
            in_flight=self.in_flight,
            waiting=waiting,
            probes=self.probes,
            refusals=self.refusals,
            models=self.known.models if self.ready else (),
        )
