"""The tasks of a batch: sent a few at a time under ids that are known beforehand, and their ends heard of.

Every method waits while Redis is away.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from redis.asyncio import Redis

from worker.delivery import keys
from worker.delivery.deliveries import revoked
from worker.delivery.ledger import Json, Ledger, stubbornly
from worker.delivery.sending import OWNER_TTL_S, envelope
from worker.delivery.states import Update, read_state
from worker.delivery.truth import look

T = TypeVar("T")

#: Tasks one script handles: Redis does nothing else meanwhile.
_AT_ONCE = 64
#: Ends heard of at once.
_ENDED_AT_ONCE = 1000
#: Seconds after the first of them, in which others may join it.
_GATHER_S = 0.03


@dataclass(frozen=True, slots=True)
class FedTask:
    """A task to send.

    Attributes:
        id: always the same for the same piece of work.
        task: its name.
        kwargs: its arguments.
    """

    id: str
    task: str
    kwargs: Json

    @property
    def shared(self) -> bool:
        """Whether other tasks may ask for its result."""
        options = self.kwargs.get("options") or {}
        return bool(options.get("idempotency_key") or options.get("cache"))


@dataclass(frozen=True, slots=True)
class Demand:
    """What there is to do, and who does it.

    Attributes:
        slots: requests that live workers' model servers take at once.
        idle: whether no task is anywhere.
        redis: names this run of Redis: another after it was started again.
    """

    slots: int
    idle: bool
    redis: str


class Feed:
    """One batch's tasks.

    Args:
        client: of the broker's Redis; its connections are used for up to 5 s each.
        batch: its id.
        owner: whose it is; not empty.
        result_ttl_s: seconds it is known that a task is over.
        queue: where its tasks wait.
    """

    def __init__(
        self, client: Redis, batch: str, owner: str, result_ttl_s: int, queue: str = "batch"
    ) -> None:
        self._client, self._ledger = client, Ledger(client)
        self._batch, self._owner, self._ttl_s, self._queue = batch, owner, result_ttl_s, queue

    async def send(self, tasks: Sequence[FedTask], *, again: bool = False) -> list[str]:
        """Put tasks in the queue that were not put there before; ids of those that have ended already.

        Args:
            tasks: to send.
            again: also those that were sent and have not ended: what Redis lost is found, nothing runs twice.
        """
        ended = []
        for some in _pages(tasks, _AT_ONCE):
            codes = await stubbornly(lambda: self._feed(some, again=again))  # noqa: B023
            ended += [task.id for task, code in zip(some, codes, strict=True) if code == 2]
        return ended

    async def ended(self, wait_s: float) -> list[str]:
        """Ids of tasks that have ended since it was asked, waited for up to `wait_s` seconds (at most 5).

        Some may never be told, because Redis or this process died: look after them with `outcomes`.
        """
        return await stubbornly(lambda: self._ended(wait_s))

    async def outcomes(self, ids: Sequence[str]) -> dict[str, Update]:
        """The outcomes of those tasks that have one."""
        found = {}
        for some in _pages(ids, _AT_ONCE):
            names = [keys.RESULT % task_id for task_id in some]
            stored = await stubbornly(lambda: self._client.mget(names))  # noqa: B023
            for task_id, value in zip(some, stored, strict=True):
                if (update := read_state(value)).ended:
                    found[task_id] = update
        return found

    async def settle(self, ids: Sequence[str]) -> None:
        """Their outcomes are in safety."""
        for some in _pages(ids, _AT_ONCE):
            await stubbornly(lambda: self._ledger.settle(some, self._ttl_s))  # noqa: B023

    async def cancel(self, ids: Sequence[str]) -> None:
        """Cancel those of these tasks that were sent; all that were have an outcome afterwards."""
        for some in _pages(ids, _AT_ONCE):
            await stubbornly(lambda: self._cancel(some))  # noqa: B023

    async def demand(self) -> Demand:
        """How things are."""
        return await stubbornly(self._demand)

    async def _feed(self, tasks: Sequence[FedTask], *, again: bool) -> list[int]:
        now = time.time()
        rows = []
        for task in tasks:
            known = {
                "owner": self._owner, "task": task.task, "queue": self._queue, "sent_at": now,
                "batch": self._batch, "shared": task.shared,
            }  # fmt: skip
            message = envelope(task.task, task.id, task.kwargs, self._queue, now)
            rows.append((task.id, message, json.dumps(known)))
        return await self._ledger.feed(self._queue, rows, OWNER_TTL_S, again=again)

    async def _ended(self, wait_s: float) -> list[str]:
        name = keys.ENDED % self._batch
        found: Any = await self._client.lpop(name, _ENDED_AT_ONCE)
        if not found and wait_s > 0:
            first: Any = await self._client.blpop([name], wait_s)
            if first:
                await asyncio.sleep(_GATHER_S)
                found = [first[1], *(await self._client.lpop(name, _ENDED_AT_ONCE) or ())]
        return [task_id.decode() for task_id in found or ()]

    async def _cancel(self, ids: Sequence[str]) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            for task_id in ids:
                pipe.exists(keys.OWNER % task_id)
            sent = await pipe.execute()
        at = datetime.now(UTC).isoformat()
        cancelling = [
            self._ledger.cancel(task_id, revoked(task_id, at), self._ttl_s)
            for task_id, known in zip(ids, sent, strict=True)
            if known
        ]
        await asyncio.gather(*cancelling)

    async def _demand(self) -> Demand:
        found = await look(self._client)
        server = await self._client.info("server")
        waiting = sum(queue.waiting for queue in found.queues)
        return Demand(
            slots=sum(worker.slots for worker in found.workers),
            idle=not (waiting or found.reserved or found.delayed or found.suspects),
            redis=str(server["run_id"]),
        )


def _pages(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
