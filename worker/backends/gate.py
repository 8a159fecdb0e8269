"""Which server takes the next request, and who waits for one.

Every server has a limit on requests in flight. Who finds no free slot waits in one queue, first come first
served, and is woken exactly when a slot is his: nothing polls.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.backends.base import Capabilities, Readiness, State
from worker.backends.openai_compatible import OpenAIClient
from worker.errors import BackendUnavailable, TaskError

#: A server that says it is full is left alone for a random part of this, doubling up to the most; seconds.
REST_S, MOST_REST_S = 0.2, 5.0


def backoff_s(times: int, first_s: float, most_s: float) -> float:
    """A random wait that doubles with `times`, between half of it and all of it; seconds."""
    whole_s = min(most_s, first_s * 2.0 ** min(times, 30))
    return random.uniform(whole_s / 2, whole_s)  # noqa: S311


@dataclass(eq=False, slots=True)
class Server:
    """One server and what is known of it.

    Attributes:
        client: speaks to it.
        readiness: as last found.
        capabilities: as found when it last became ready; kept while it is down.
        embeddings: whether it embeds; None until asked.
        limit: most requests in flight.
        in_flight: requests in flight, or slots lent.
        rests_until: `time.monotonic()` before which it gets no new request.
        failures: times in a row it went down when it was used.
        watcher: the task that waits for it to become ready.
        asking: the task that finds out whether it embeds.
        asked: set once it has been asked, whatever it said.
    """

    client: OpenAIClient
    readiness: Readiness
    capabilities: Capabilities | None = None
    embeddings: bool | None = None
    limit: int = 0
    in_flight: int = 0
    rests_until: float = 0.0
    failures: int = 0
    watcher: asyncio.Task[None] | None = None
    asking: asyncio.Task[None] | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    _rests: int = 0
    _last_turn: int = 0

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

    def lend(self, turn: int) -> None:
        """Take a slot."""
        self.in_flight += 1
        self._last_turn = turn

    def rest(self, retry_after_s: float) -> float:
        """Leave it alone as long as it asked, or a growing while; returns seconds.

        Many requests refused together count as one refusal.
        """
        now = time.monotonic()
        if now >= self.rests_until:
            self.rests_until = now + backoff_s(self._rests, REST_S, MOST_REST_S)
            self._rests += 1
        self.rests_until = max(self.rests_until, now + retry_after_s)
        return self.rests_until - now

    def answered(self) -> None:
        """It works: the next refusal starts small again."""
        self._rests = 0
        self.failures = 0

    @property
    def load(self) -> tuple[int, int]:
        """Least is next: fewest in flight, then the one whose last turn is longest ago."""
        return self.in_flight, self._last_turn


@dataclass(eq=False, slots=True)
class _Waiter:
    avoid: Server | None
    only: Server | None
    slot: asyncio.Future[Server] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Gate:
    """Lends slots of servers."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = servers
        self._queue: deque[_Waiter] = deque()
        self._watching: set[asyncio.Future[None]] = set()
        self._turn = 0

    async def take(
        self, *, avoid: Server | None = None, only: Server | None = None, first: bool = False
    ) -> Server:
        """A ready server, one slot of which is now the caller's until `give_back`.

        Args:
            avoid: a server to pass over while another one is free.
            only: the one server that will do.
            first: wait in front of the others: for one who has had his turn and lost it.

        Raises:
            BackendRejected: every server refused to serve us while we waited.
        """
        waiter = _Waiter(avoid, only)
        if not self._queue and (server := self._free(waiter)):
            return self._lend(server)
        (self._queue.appendleft if first else self._queue.append)(waiter)
        self.wake()  # those in front may wait for one certain server
        try:
            return await waiter.slot
        except BaseException:
            if waiter.slot.done() and not waiter.slot.cancelled() and waiter.slot.exception() is None:
                self.give_back(waiter.slot.result())  # cancelled in the moment the slot came
            elif waiter in self._queue:
                self._queue.remove(waiter)
            raise

    def give_back(self, server: Server) -> None:
        """Return a slot."""
        server.in_flight -= 1
        self.wake()

    async def ready(self) -> Server:
        """A ready server, no slot taken; waits until there is one.

        Raises:
            BackendRejected: every server refused to serve us while we waited.
        """
        while not (servers := [server for server in self.servers if server.ready]):
            change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watching.add(change)
            try:
                await change
            finally:
                self._watching.discard(change)
        return min(servers, key=lambda server: server.load)

    def wake(self) -> None:
        """Hand free slots to those who wait; call it whenever a server's state has changed."""
        if self._watching and any(server.ready for server in self.servers):
            for change in self._watching:
                if not change.done():
                    change.set_result(None)
        while self._queue and (served := self._serve_next()):
            self._queue.remove(served)

    def _serve_next(self) -> _Waiter | None:
        """Serve the first who can be; None where nobody can."""
        for waiter in self._queue:
            if waiter.slot.done():
                return waiter
            if server := self._free(waiter):
                waiter.slot.set_result(self._lend(server))
                return waiter
            if waiter.only is None:
                return None
        return None

    def refuse(self, error: TaskError) -> None:
        """End everybody's waiting with this error."""
        waiting: list[asyncio.Future[Any]] = [*(waiter.slot for waiter in self._queue), *self._watching]
        self._queue.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    def outage(self) -> BackendUnavailable | None:
        """Why no server takes work; None where one does."""
        if any(server.ready for server in self.servers):
            return None
        return BackendUnavailable(
            " ".join(server.readiness.reason for server in self.servers), server_down=True
        )

    def _free(self, waiter: _Waiter) -> Server | None:
        now = time.monotonic()
        free = [
            server
            for server in ([waiter.only] if waiter.only else self.servers)
            if server.ready and server.in_flight < server.limit and now >= server.rests_until
        ]
        return min(free, key=lambda server: (server is waiter.avoid, server.load), default=None)

    def _lend(self, server: Server) -> Server:
        self._turn += 1
        server.lend(self._turn)
        return server
