"""How much work there is and where, from Redis alone: no worker is asked."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis

from worker import metrics
from worker.delivery import keys
from worker.delivery.deliveries import LANES

#: What a worker consumes where it is not told otherwise.
QUEUES = tuple(queue for lane in LANES for queue in lane)
#: Seconds it is remembered since when a message is the first of its queue; from the last look on.
_HEADS_TTL_S = 86400


@dataclass(frozen=True, slots=True)
class QueueTruth:
    """One queue.

    Attributes:
        name: of the queue.
        waiting: messages nobody has taken, of all priorities.
        oldest_s: seconds since the message whose turn is next was sent (its `sent_at` header), else since it
            was first seen there; None where none waits.
    """

    name: str
    waiting: int
    oldest_s: float | None


@dataclass(frozen=True, slots=True)
class WorkerTruth:
    """A live worker, by its last report (a few seconds old).

    Attributes:
        name: host, process id and a random part: no two are the same, ever.
        host: its machine.
        pid: its process.
        queues: what it consumes.
        held: tasks it holds.
        limit: most it may hold.
        capacity: most it has use for as its model servers are now; None where it does not look at that.
        running: of those it holds, tasks with a model server; None where it does not say.
        parked: of those it holds, tasks that wait for a model server; None where it does not say.
        slots: requests its model servers take at once; 0 while none is ready.
        models: names of their models.
        tasks: names of the tasks it can do.
        ocr: its OCR models, and whether they are there.
    """

    name: str
    host: str
    pid: int
    queues: list[str]
    held: int
    limit: int
    capacity: int | None
    running: int | None
    parked: int | None
    slots: int = 0
    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    ocr: Mapping[str, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, report: str) -> "WorkerTruth":
        """Read what `Deliveries` reported; another version may have said less.

        A task may have several requests at once: more requests than tasks count as all of the tasks.
        """
        said = json.loads(report)
        held = int(said.get("held", 0))
        running = parked = None
        if "running" in said:
            running = min(int(said["running"]), held)
            parked = min(int(said.get("at_gate", 0)), held - running)
        return cls(
            name=name,
            host=str(said.get("host", "")),
            pid=int(said.get("pid", 0)),
            queues=list(said.get("queues") or []),
            held=held,
            limit=int(said.get("limit", 0)),
            capacity=said.get("capacity"),
            running=running,
            parked=parked,
            slots=int(said.get("slots", 0)),
            models=tuple(said.get("models") or ()),
            tasks=tuple(said.get("tasks") or ()),
            ocr=dict(said.get("ocr") or {}),
        )


@dataclass(frozen=True, slots=True)
class Truth:
    """Every task that is not over, once.

    Attributes:
        queues: those of `look`, and what live workers consume besides.
        reserved: tasks in the hands of workers, also of dead ones until their leases end.
        running: of those, tasks with a model server, as the live workers report.
        parked: of those, tasks that wait for a model server, as the live workers report.
        delayed: tasks that are not due yet: an `eta`, or a retry.
        suspects: tasks whose worker died with them; they are next, a few at a time.
        dead: dead letters.
        workers: live workers.
    """

    queues: list[QueueTruth]
    reserved: int
    running: int
    parked: int
    delayed: int
    suspects: int
    dead: int
    workers: list[WorkerTruth]


async def look(client: Redis, queues: Sequence[str] = QUEUES) -> Truth:
    """How things are now, in one round trip; raises redis-py's errors.

    Args:
        client: of the broker's Redis.
        queues: looked at whether a worker consumes them or not.
    """
    script = client.register_script(_source())
    now, rows, held, delayed, suspects, dead, reports = await script(
        args=[json.dumps(keys.PRIORITY_SUFFIXES), _HEADS_TTL_S, *queues]
    )
    workers = [WorkerTruth.of(name.decode(), report.decode()) for name, report in reports]
    return Truth(
        queues=[_queue(name, waiting, int(since), int(now)) for name, waiting, since in rows],
        reserved=held,
        running=sum(worker.running or 0 for worker in workers),
        parked=sum(worker.parked or 0 for worker in workers),
        delayed=delayed,
        suspects=suspects,
        dead=dead,
        workers=sorted(workers, key=lambda worker: worker.name),
    )


def show(found: Truth | None) -> None:
    """As metrics; None: nobody knows."""
    metrics.QUEUE_WAITING.clear()
    metrics.QUEUE_OLDEST_SECONDS.clear()
    for queue in found.queues if found else ():
        metrics.QUEUE_WAITING.labels(queue.name).set(queue.waiting)
        metrics.QUEUE_OLDEST_SECONDS.labels(queue.name).set(queue.oldest_s or 0)
    for gauge, name in (
        (metrics.RESERVED, "reserved"),
        (metrics.RUNNING, "running"),
        (metrics.PARKED, "parked"),
        (metrics.DELAYED, "delayed"),
        (metrics.SUSPECTS, "suspects"),
        (metrics.DEAD, "dead"),
    ):
        gauge.set(getattr(found, name) if found else math.nan)


async def copies_waiting(client: Redis) -> int:
    """Messages that wait for the outcome of a task that is running: it was sent, or delivered, twice.

    Raises redis-py's errors. It asks for every task that runs: for people, not for every few seconds.
    """
    running: list[Any] = await client.hkeys(keys.RUN)
    async with client.pipeline(transaction=False) as pipe:
        for task_id in running:
            pipe.llen(keys.COPIES % task_id.decode())
        return sum(await pipe.execute())


def _queue(name: bytes, waiting: int, since_ms: int, now_ms: int) -> QueueTruth:
    oldest_s = max(0, now_ms - since_ms) / 1000 if waiting else None
    return QueueTruth(name.decode(), waiting, oldest_s)


@cache
def _source() -> str:
    folder = files(__package__) / "lua"
    return "".join((folder / f"{name}.lua").read_text() for name in ("always", "common", "look"))
