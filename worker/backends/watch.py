"""Which servers take work: those that are down are asked until they do, those that fail are put aside.

A server that fails as a whole bears it alone: its requests wait or go to another one and cost their tasks no
attempt. This is a circuit breaker: open while a server is down, and half open on the first steps of its ramp.
"""

import asyncio
import logging
import time

from worker.backends import kinds
from worker.backends.base import BackendOptions, Capabilities, Readiness, State
from worker.backends.gate import Gate, Slot
from worker.backends.limit import FoundLimit, KnownLimit
from worker.backends.server import Server, backoff_s
from worker.errors import BackendUnavailable, TaskError

logger = logging.getLogger(__name__)

#: A server that is down is asked again after this long, doubling up to the most; seconds.
PROBE_EVERY_S, MOST_PROBE_EVERY_S = 1.0, 10.0
#: A server is put aside after failed answers for so many tasks in a row, for up to this long; seconds.
FAILURES, MOST_ASIDE_S = 3, 60.0
#: The only server is tried again sooner: nobody else does its work.
MOST_ASIDE_ALONE_S = 10.0
#: A server that works is asked this often how many requests wait inside it; seconds.
LISTEN_EVERY_S = 2.0

#: More than a loop's timers are early by, seconds.
_TIMER_SLACK_S = 0.01


class Watcher:
    """Keeps the state of the servers of one gate.

    Args:
        kind: how they are asked.
        options: their limits.
        gate: whose servers they are; woken when one's state has changed.
    """

    def __init__(self, kind: kinds.Kind, options: BackendOptions, gate: Gate) -> None:
        self._kind = kind
        self._options = options
        self._gate = gate

    def start(self) -> None:
        """Wait for every server that is not ready; one that rejects us is not asked for every task."""
        for server in self._gate.servers:
            if not server.ready:
                self._watch(server, PROBE_EVERY_S if server.rejects and self._gate.outage() is None else 0.0)

    async def aclose(self) -> None:
        """End all questions."""
        tasks = [
            task
            for server in self._gate.servers
            for task in (server.watcher, server.checker, server.listener)
            if task is not None
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def probe(self, server: Server) -> Readiness:
        """Ask it now. Never raises."""
        try:
            return await self._ask(server)
        except BackendUnavailable as error:
            if server.ready and server.in_flight and not error.server_down:
                return server.readiness  # busy with our own requests
            return Readiness(server.client.url, State.DOWN, str(error))
        except TaskError as error:
            return Readiness(server.client.url, State.DOWN, str(error))

    def listen(self, server: Server) -> None:
        """Hear how many requests wait inside a server that is in use, where that helps to find its limit."""
        if server.tells_queue and (server.listener is None or server.listener.done()):
            server.listener = asyncio.create_task(self._listen(server))

    async def blame(self, slot: Slot, error: BackendUnavailable, task_id: str) -> bool:
        """Let its server bear a task's failure; true where it is the server's alone and costs no attempt."""
        server = slot.server
        if error.server_down:
            self._set_down(server, str(error))
        elif error.retry_after_s is not None:
            rest_s = server.refused(slot.sent_at, error.retry_after_s)
            # A timer may be a millisecond early, and then nobody would wake them again.
            asyncio.get_running_loop().call_later(rest_s + _TIMER_SLACK_S, self._gate.wake)
            if server.ready:
                self._check(server)
        elif server.ready:
            server.failed.add(task_id)
            if time.monotonic() - slot.sent_at >= self._options.timeout_s:
                server.limiter.refused(slot.sent_at)  # so slow is too full
            await asyncio.shield(self._check(server))
            if server.ready:
                if (tasks := len(server.failed)) >= FAILURES:  # one alone may be what breaks it
                    self._set_down(server, f"{tasks} tasks in a row got no answer. {error}", aside=True)
                return False
        return True

    def _check(self, server: Server) -> asyncio.Task[None]:
        """Ask a server that seemed ready whether it is, once however many suspect it."""
        if server.checker is None or server.checker.done():
            server.checker = asyncio.create_task(self._make_sure(server))
        return server.checker

    async def _make_sure(self, server: Server) -> None:
        try:
            found = await self._ask(server)
        except BackendUnavailable as error:
            if error.server_down:  # else it is slow to say so, and it was only a suspicion
                self._set_down(server, str(error))
        except TaskError as error:
            self._set_rejecting(server, error)
        else:
            if found.state is not State.READY:
                self._set_down(server, found.reason, found.state)

    def _watch(self, server: Server, delay_s: float) -> None:
        if server.watcher is None or server.watcher.done():
            server.watcher = asyncio.create_task(self._until_ready(server, delay_s))

    async def _until_ready(self, server: Server, delay_s: float) -> None:
        """Ask until the server takes work, or says that it never will."""
        tries = 0
        while True:
            await asyncio.sleep(delay_s)
            try:
                found = await self._ask(server)
                if found.state is State.READY:
                    self._set_ready(server, await self._kind.discover(server.client))
                    return
            except BackendUnavailable as error:
                found = Readiness(server.client.url, State.DOWN, str(error))
            except TaskError as error:
                self._set_rejecting(server, error)
                return
            except Exception as error:
                logger.exception("Asking %s failed", server.client.url)
                found = Readiness(server.client.url, State.DOWN, f"{server.client.url}: {error!r}.")
            self._note(server, found)
            delay_s = backoff_s(tries, PROBE_EVERY_S, MOST_PROBE_EVERY_S)
            tries += 1

    async def _ask(self, server: Server) -> Readiness:
        server.probes += 1
        return await self._kind.readiness(server.client)

    async def _listen(self, server: Server) -> None:
        while server.in_flight and server.tells_queue:
            await asyncio.sleep(LISTEN_EVERY_S)
            try:
                queued = await self._kind.queued(server.client)
            except TaskError:
                queued = None
            server.tells_queue = queued is not None
            server.limiter.queued(queued or 0)

    def _set_ready(self, server: Server, found: Capabilities) -> None:
        if self._kind.takes_one_at_a_time(found):
            server.limiter = KnownLimit(1)
        elif known := self._options.max_concurrency or found.slots:
            server.limiter = KnownLimit(known)
        elif not isinstance(server.limiter, FoundLimit):
            server.limiter = FoundLimit(self._options.pool_size)
        server.tells_queue = isinstance(server.limiter, FoundLimit)
        if server.was_away:
            server.ramp.restart()
        server.capabilities, server.embeddings = found, None
        server.client.models = found.models
        server.readiness = Readiness(server.client.url, State.READY)
        server.rejects = False
        server.asked.set()
        most = server.limiter.value
        logger.info("%s is ready: %s, %s, %d at once", server.client.url, found.server, found.model, most)
        self._gate.wake()

    def _set_down(
        self, server: Server, reason: str, state: State = State.DOWN, *, aside: bool = False
    ) -> None:
        """No more work for a server that was ready, until it says that it is again."""
        if not server.ready:
            return
        self._note(server, Readiness(server.client.url, state, reason))
        alone = len(self._gate.servers) == 1
        most_s = (MOST_ASIDE_ALONE_S if alone else MOST_ASIDE_S) if aside else MOST_PROBE_EVERY_S
        self._watch(server, backoff_s(server.downs, PROBE_EVERY_S, most_s))
        server.downs += 1

    def _set_rejecting(self, server: Server, error: TaskError) -> None:
        """It will not serve us as we are; the next task asks again."""
        self._note(server, Readiness(server.client.url, State.DOWN, str(error)))
        server.rejects = True
        if not any(self._may_come(other) for other in self._gate.servers if other is not server):
            self._gate.refuse(error)
        self._gate.wake()

    def _note(self, server: Server, found: Readiness) -> None:
        if server.readiness.reason != found.reason:
            logger.warning("Work waits for a model server. %s", found.reason)
        server.readiness = found
        server.was_away = True
        server.rejects = False
        server.asked.set()
        self._gate.wake()

    def _may_come(self, server: Server) -> bool:
        return server.ready or (server.watcher is not None and not server.watcher.done())
