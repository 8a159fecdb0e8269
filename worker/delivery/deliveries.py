"""What this process holds of the queues: taken, renewed and acknowledged on its event loop.

Everybody else speaks to `Deliveries` from any thread. While Redis is away nothing that runs is disturbed:
acknowledgements wait, leases are renewed when it is back.
"""

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from worker.delivery.ledger import Delivery, Json, Ledger, Suspects, persist, retry_wait_s
from worker.delivery.wake import Listener, listening
from worker.redis_client import RedisAddress

logger = logging.getLogger(__name__)

#: The most urgent lane first. `celery` is where a producer that names no queue sends to.
LANES = (("interactive",), ("default", "celery"), ("batch",))
#: The batch lane leaves this share of the places in a process to the others, at least one.
SPARE_SHARE = 1 / 8
#: Most messages of one visit to the queues.
_BATCH = 128
#: Seconds between visits that nothing gave reason for; the second where Redis does not tell of changes.
_IDLE_S, _POLL_S = 5.0, 0.1
#: A connection that held this long, seconds, is a new beginning.
_STEADY_S = 10.0
#: Most seconds between renewals, whatever the lease.
_RENEW_S = 5.0
#: Seconds between renewals where there is news of this process: others are told what it can do.
_TELL_S = 0.5
#: Seconds shutdown waits for Redis.
_CLOSE_TIMEOUT_S = 5.0

Receive = Callable[[list[Delivery]], None]


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """What wiring hands to `Deliveries`.

    Attributes:
        lease_s: seconds after which a silent worker's messages are taken over.
        max_deliveries: workers a task may cost before it is a dead letter.
        report: tells what this process does, for `kc-worker status`.
    """

    lease_s: float = 60.0
    max_deliveries: int = 5
    report: Callable[[], Json] = dict


class Deliveries:
    """One for a process.

    Args:
        address: the broker.
        loop: where it all happens.
        options: times and limits.
    """

    def __init__(
        self, address: RedisAddress, loop: asyncio.AbstractEventLoop, options: DeliveryOptions
    ) -> None:
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._address = address
        self._loop = loop
        self._options = options
        self._held: dict[str, Delivery] = {}
        self._over: dict[str, Delivery] = {}  # not acknowledged in Redis yet
        self._flushing = False
        self._queues: set[str] = set()
        self._limit = 0
        self._capacity: int | None = None
        self._hungry = True
        self._tasks: list[asyncio.Task[None]] = []
        self._settling: set[asyncio.Task[None]] = set()
        self._receive: Receive = lambda _found: None
        self._on_cancelled: Callable[[str], None] = lambda _task_id: None
        self._on_lost: Callable[[Delivery], None] = lambda _held: None
        self.clock_offset_s = 0.0  #: Redis' clock minus ours.

    @property
    def in_flight(self) -> int:
        """Messages held."""
        return len(self._held)

    def start(
        self, receive: Receive, on_cancelled: Callable[[str], None], on_lost: Callable[[Delivery], None]
    ) -> None:
        """Begin; messages come once there are queues and room. All three are called on the loop's thread.

        Args:
            receive: takes what was reserved.
            on_cancelled: told the id of a task that was cancelled.
            on_lost: told of a delivery whose task was taken over, by another worker or by this one.
        """
        self._receive, self._on_cancelled, self._on_lost = receive, on_cancelled, on_lost
        self._call(self._start)

    def consume(self, queue: str) -> None:
        """Take messages of this queue too."""
        self._queues.add(queue)
        self._call(self._look_again)

    def leave(self, queue: str) -> None:
        """Take no more messages of this queue."""
        self._queues.discard(queue)

    def limit(self, messages: int) -> None:
        """Hold no more than this."""
        self._limit = messages
        self._call(self._look_again)

    def capacity(self, messages: int | None) -> None:
        """Hold no more than the model servers have use for; None: as many as the limit allows."""
        self._capacity = messages
        self._call(self._look_again)
        self._call(self._tell_soon)

    def acknowledge(self, token: str) -> None:
        """A delivery is over."""
        self._call(self._end, token)

    def give_back(self, token: str) -> None:
        """Put a message back in its queue; it counts as not delivered."""
        self._call(self._settle, [token], lambda: self._ledger.give_back([token]))

    def reject(self, token: str) -> None:
        """Put a message back whose delivery ended without an outcome; that happens so often and no more."""
        note = self._note("rejected")
        self._call(self._settle, [token], lambda: self._ledger.give_back([token], note, counts=True))

    def bury(self, token: str, reason: str) -> None:
        """Keep a message as a dead letter."""
        self._call(self._settle, [token], lambda: self._ledger.bury(token, reason))

    def cancel(self, task_id: str, value: str, ttl_s: int) -> None:
        """Cancel a task wherever it is, as `Ledger.cancel` says."""
        self._call(self._settle, [], lambda: self._ledger.cancel(task_id, value, ttl_s))

    async def close(self) -> None:
        """Give back what is still held, acknowledge the rest, and close the connections."""
        self._queues.clear()
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await asyncio.gather(*self._settling)
                await self._flush()
                await self._ledger.reclaim(list(self._held))
                if self._held:
                    back = await self._ledger.give_back(list(self._held), self._note("handed back"))
                    logger.info("Handed back %d tasks.", back)
                await self._ledger.leave()
        except (TimeoutError, RedisError, OSError) as error:
            logger.warning("Redis is away at shutdown; %d leases will end: %s", len(self._held), error)
        await self._ledger.client.aclose()

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)

    def _start(self) -> None:
        self._changed, self._news = asyncio.Event(), asyncio.Event()
        self._ledger = self._new_ledger()
        for work in (self._take, self._renew, self._recover):
            self._tasks.append(self._loop.create_task(self._persistently(work)))

    def _new_ledger(self, client: Any = None) -> Ledger:
        return Ledger(
            client or self._address.connect(), self.owner, self._options.lease_s, self._options.max_deliveries
        )

    async def _persistently(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin again whenever Redis was away."""
        failures = 0
        while True:
            started = time.monotonic()
            try:
                await work()
            except (RedisError, OSError) as error:
                failures = 0 if time.monotonic() - started > _STEADY_S else failures + 1
                if failures == 1:
                    logger.warning("Redis is away (%s); trying again.", error)
            except Exception:
                logger.exception("%s failed; beginning again", work.__name__)
                failures += 1
            await asyncio.sleep(retry_wait_s(failures))

    def _look_again(self) -> None:
        self._changed.set()

    def _tell_soon(self) -> None:
        self._news.set()

    async def _take(self) -> None:
        async with listening(self._address) as ears:
            await self._ledger.reclaim([*self._held, *self._over])
            both = [self._loop.create_task(self._visit(ears)), self._loop.create_task(self._listen(ears))]
            try:
                done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    ended.result()
            finally:
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)

    async def _visit(self, ears: Listener) -> None:
        """Take messages whenever there is room and reason to look."""
        ledger = self._new_ledger(ears.reader)
        while True:
            self._changed.clear()
            wait_s = _IDLE_S if ears.tracks else _POLL_S
            limit = self._limit if self._capacity is None else min(self._limit, self._capacity)
            room = limit - len(self._held)
            self._hungry = False
            if room > 0 and (lanes := self._lanes()):
                wanted = min(room, _BATCH)
                spare = max(1, round(limit * SPARE_SHARE)) if limit > 1 else 0
                taken = await ledger.reserve(lanes, wanted, max(0, spare - (room - wanted)), self._suspects())
                self.clock_offset_s = taken.now_s - time.time()
                self._hungry = not taken.more and len(taken.deliveries) < wanted
                if taken.deliveries:
                    self._held.update((found.token, found) for found in taken.deliveries)
                    self._receive(taken.deliveries)
                    if taken.more:
                        continue
                if taken.due_in_s is not None:
                    wait_s = min(wait_s, taken.due_in_s + 0.001)
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it may swallow a cancellation that comes with the event.
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    async def _listen(self, ears: Listener) -> None:
        while True:
            if (task_id := await ears.next()) is not None:
                self._on_cancelled(task_id)
            else:
                self._changed.set()

    def _lanes(self) -> list[list[str]]:
        """The queues by lane; one that is none of ours goes with `default`."""
        known = {queue for lane in LANES for queue in lane}
        lanes = [[queue for queue in lane if queue in self._queues] for lane in LANES]
        lanes[1] += sorted(self._queues - known)
        return [lane for lane in lanes if lane]

    def _suspects(self) -> Suspects:
        deaths = [held.deaths for held in self._held.values() if held.deaths]
        return Suspects(len(deaths), max(deaths, default=0), self._limit)

    def _end(self, token: str) -> None:
        if (held := self._held.pop(token, None)) is None:
            return
        self._over[token] = held
        if not self._hungry:
            self._changed.set()
        if not self._flushing:
            self._flushing = True
            self._keep(self._flush())

    async def _flush(self) -> None:
        """Acknowledge all that is over, many at a time, until none is left."""
        self._flushing = True
        try:
            while self._over:
                tokens = list(self._over)
                await persist(lambda: self._ledger.acknowledge(tokens))  # noqa: B023 - awaited here
                for token in tokens:
                    self._over.pop(token, None)
        finally:
            self._flushing = False

    def _settle(self, tokens: Sequence[str], ask: Callable[[], Awaitable[object]]) -> None:
        """Tell Redis what became of messages; they are held until it knows."""

        async def settle() -> None:
            await persist(ask)
            for token in tokens:
                self._forget(token)

        self._keep(settle())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in the background; nothing else refers to it."""
        task = self._loop.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def _forget(self, token: str) -> None:
        self._held.pop(token, None)
        self._changed.set()

    async def _renew(self) -> None:
        every_s = min(_RENEW_S, self._options.lease_s / 4)
        while True:
            tokens = [*self._held, *self._over]
            lost, cancelled = await self._ledger.renew(tokens, self._report(), 3 * every_s)
            for token in lost:
                if (held := self._held.pop(token, None)) is not None:
                    self._on_lost(held)
            for token in cancelled:
                if (held := self._held.get(token)) is not None:
                    self._on_cancelled(held.task_id)
            await asyncio.sleep(min(_TELL_S, every_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s - min(_TELL_S, every_s)):
                    await self._news.wait()
            self._news.clear()

    async def _recover(self) -> None:
        lease_s = self._options.lease_s
        every_s = min(_RENEW_S, lease_s / 4)
        while True:
            found = await self._ledger.recover(pause_s=3 * every_s, grace_s=min(3 * _RENEW_S, lease_s))
            if found:
                logger.warning("Took back %d tasks of workers that are gone.", found)
            await asyncio.sleep(every_s * random.uniform(0.8, 1.2))  # noqa: S311

    def _report(self) -> Json:
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "held": len(self._held),
            "limit": self._limit,
            "capacity": self._capacity,
            "queues": sorted(self._queues),
            **self._options.report(),
        }

    def _note(self, event: str, **more: str) -> Json:
        now_ms = round((time.time() + self.clock_offset_s) * 1000)
        return {"at": now_ms, "event": event, "worker": self.owner, **more}


def revoked(task_id: str, done_at: str) -> str:
    """What Celery's result store keeps of a cancelled task; `done_at` in ISO 8601."""
    error = {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"}
    return json.dumps(
        {
            "status": "REVOKED",
            "result": error,
            "traceback": None,
            "children": [],
            "date_done": done_at,
            "task_id": task_id,
        }
    )
