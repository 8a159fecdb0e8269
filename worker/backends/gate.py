"""Which server takes the next request, and who waits for one.

Every server has a limit on requests in flight. Who finds no free slot waits in his lane, first come first
served, and is woken exactly when a slot is his: nothing polls.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.backends.base import ServerLoad
from worker.backends.lanes import Lane, Lanes
from worker.backends.server import Server
from worker.errors import BackendUnavailable, TaskError

#: A server that answers nobody for this long, or so many times the time that answers take, gets no more work
#: while another one answers; seconds.
STALLED_S, STALLED_ANSWERS = 10.0, 3.0


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to have one request in flight.

    Attributes:
        server: where.
        lane: whose it is.
        sent_at: `time.monotonic()` at which it was lent.
    """

    server: Server
    lane: Lane
    sent_at: float


@dataclass(eq=False, slots=True)
class _Waiter:
    lane: Lane
    since: float
    avoid: Server | None
    only: Server | None
    affinity: str
    slot: asyncio.Future[Slot] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Gate:
    """Lends slots of servers."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = servers
        self.listeners: list[Callable[[], None]] = []
        self._lanes: Lanes[_Waiter] = Lanes()
        self._watching: set[asyncio.Future[None]] = set()
        self._turn = 0
        self._slowest_s = 0.0
        self._told_capacity = 0

    async def take(
        self,
        lane: Lane,
        *,
        avoid: Server | None = None,
        only: Server | None = None,
        first: bool = False,
        affinity: str = "",
    ) -> Slot:
        """A slot of a ready server, the caller's until `give_back`.

        Args:
            lane: where to wait.
            avoid: a server to pass over while another one is free.
            only: the one server that will do.
            first: wait in front of the others of the lane: for one who had his turn and got nothing for it.
            affinity: takers of the same name get the same one of the servers that have a free slot.

        Raises:
            BackendRejected: every server refused to serve us while we waited.
        """
        waiter = _Waiter(lane, time.monotonic(), avoid, only, affinity)
        if self._lanes.empty_to(lane) and (server := self._free(waiter)):
            return self._lend(server, lane)
        self._lanes.add(waiter, first=first)
        self.wake()  # those in front may wait for one certain server
        try:
            return await waiter.slot
        except BaseException:
            if waiter.slot.done() and not waiter.slot.cancelled() and waiter.slot.exception() is None:
                self.give_back(waiter.slot.result())  # cancelled in the moment the slot came
            else:
                self._lanes.discard(waiter)
            raise

    def answered(self, slot: Slot, work: float) -> None:
        """The request of this slot was answered well; `work` is what it brought, in tokens."""
        now = time.monotonic()
        self._slowest_s = max(now - slot.sent_at, 0.99 * self._slowest_s)
        slot.server.answered(work, slot.sent_at, now)

    def give_back(self, slot: Slot) -> None:
        """Return a slot."""
        slot.server.give_back(slot.lane)
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
        return min(servers, key=_busyness)

    def wake(self) -> None:
        """Hand free slots to those who wait; call it whenever a server's state has changed."""
        if self._watching and any(server.ready for server in self.servers):
            for change in self._watching:
                if not change.done():
                    change.set_result(None)
        while self._lanes and (served := self._serve_next()):
            self._lanes.serve(served)
        if (capacity := self.capacity()) != self._told_capacity:
            self._told_capacity = capacity
            for listener in self.listeners:
                listener()

    def capacity(self) -> int:
        """As `Backend.capacity` says."""
        if capacity := sum(server.limit for server in self.servers if server.ready):
            return capacity
        return int(any(server.rejects for server in self.servers))

    def loads(self) -> list[ServerLoad]:
        """As `Backend.load` says."""
        waiting = len(self._lanes)
        return [server.report(waiting) for server in self.servers]

    def refuse(self, error: TaskError) -> None:
        """End everybody's waiting with this error."""
        waiting: list[asyncio.Future[Any]] = [
            *(waiter.slot for waiter in self._lanes.clear()),
            *self._watching,
        ]
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

    def _serve_next(self) -> _Waiter | None:
        """Serve the first who can be; None where nobody can."""
        for lane in self._lanes.in_turn():
            for waiter in lane:
                if waiter.slot.done():
                    return waiter
                if server := self._free(waiter):
                    waiter.slot.set_result(self._lend(server, waiter.lane))
                    return waiter
                if waiter.only is None:
                    break
        return None

    def _free(self, waiter: _Waiter) -> Server | None:
        now = time.monotonic()
        ready = [
            server
            for server in ([waiter.only] if waiter.only else self.servers)
            if server.ready and now >= server.rests_until
        ]
        if len(ready) > 1:
            patience_s = max(STALLED_S, STALLED_ANSWERS * self._slowest_s)
            ready = [server for server in ready if not server.stalled(now, patience_s)] or ready
        free = [server for server in ready if server.has_room(waiter.lane)]
        return min(
            free,
            key=lambda server: (server is waiter.avoid, _liking(server, waiter.affinity), *_busyness(server)),
            default=None,
        )

    def _lend(self, server: Server, lane: Lane) -> Slot:
        now = time.monotonic()
        self._turn += 1
        server.lend(lane, now, self._turn)
        return Slot(server, lane, now)


def _busyness(server: Server) -> tuple[int, int]:
    """Least is next: fewest in flight, then the one whose last turn is longest ago."""
    return server.in_flight, server.last_turn


def _liking(server: Server, affinity: str) -> bytes:
    """Least is the server a name belongs to (rendezvous hashing): when one goes, only its names move."""
    return hashlib.sha256(f"{affinity}\0{server.client.url}".encode()).digest() if affinity else b""
