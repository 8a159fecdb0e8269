"""Lines through the queue: a few at a time, each answered once.

A line's task has an id that follows from the line. So whoever goes on after a crash sends nothing a second
time: what was sent is known in Redis under that id, and what has ended is there until it is written down.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from itertools import islice

from worker.batch.answers import Answer, Sink
from worker.batch.lines import Line, Problem, Source
from worker.batch.threads import whole
from worker.contracts.base import Json
from worker.delivery.feeding import FedTask, Feed
from worker.delivery.states import Update

logger = logging.getLogger(__name__)

#: Lines in the queue or with a worker, for each request the model servers take at once; and bounds of it.
_AHEAD, _LEAST, _MOST = 4, 64, 4096
#: Lines read, or ended, at once.
_STEP = 256
#: Seconds between looks at how many that may be.
_LOOK_S = 5.0
#: Seconds without news after which outcomes are looked for, and with news all the same.
_SILENCE_S, _ANYHOW_S = 5.0, 30.0
#: Bytes of lines under way.
_MOST_BYTES = 8 * 1024 * 1024
#: Seconds before what the disk did not take is written again.
_DISK_FULL_S = 5.0


class Run:
    """One batch on its way.

    Args:
        batch: its id.
        source: of its lines.
        answers: entered.
        feed: its tasks.
        tenant: whose its tasks are, whatever its lines say; "" for as they say.
        attempt: another one sends lines anew whose tasks were cancelled.
        in_flight: lines in the queue or with a worker; None: as many as keep the live workers busy.
    """

    def __init__(
        self,
        batch: uuid.UUID,
        source: Source,
        answers: Sink,
        feed: Feed,
        *,
        tenant: str = "",
        attempt: int = 0,
        in_flight: int | None = None,
    ) -> None:
        self._batch, self._source, self._answers, self._feed = batch, source, answers, feed
        self._tenant, self._attempt = tenant, attempt
        self._left: Iterator[Line | Problem] | None = self._undone()
        self._under_way: dict[str, Line] = {}
        self._ended: list[str] = []
        self._lost: dict[int, int] = {}
        self._stopped = False
        self._fixed, self._room = in_flight, in_flight or _LEAST
        self._looked_s = float("-inf")
        self._heard_s = self._collected_s = time.monotonic()
        self._idle, self._redis = False, ""

    @property
    def under_way(self) -> int:
        """Lines in the queue or with a worker."""
        return len(self._under_way)

    async def step(self, wait_s: float = 1.0) -> bool:
        """Send what there is room for, write down what has ended; whether there is more to do.

        Args:
            wait_s: longest wait for something to end, seconds; at most 5.
        """
        if time.monotonic() - self._looked_s > _LOOK_S:
            await self._look()
        await self._fill()
        if self._under_way:
            ended = self._ended or await self._feed.ended(wait_s)
            self._ended = []
            now = time.monotonic()
            silent = not ended and now - self._heard_s > _SILENCE_S
            if silent or now - self._collected_s > _ANYHOW_S:  # a note may have been lost
                self._heard_s = self._collected_s = now
                ended = list(self._under_way)
            await self._collect(ended)
        return bool(self._under_way) or self._left is not None

    async def end(self, code: str, message: str) -> None:
        """Do no more: what is under way is cancelled, and every line that is not done becomes an error.

        What has ended in time is answered all the same. Call it again after a crash.
        """
        self._stopped, self._left, lines = True, None, self._undone()
        while some := await whole(_next, lines):
            ids = {self._task_id(line): line for line in some if isinstance(line, Line)}
            await self._feed.cancel(list(ids))
            found = await self._feed.outcomes(list(ids))
            answers = [Answer.unanswered(line, code, message) for line in some if isinstance(line, Problem)]
            for task_id, line in ids.items():
                update = found.get(task_id)
                if update is None or update.state == "REVOKED" or _is_lost(update):
                    answers.append(Answer.unanswered(line, code, message))
                else:
                    answers.append(Answer.of_outcome(line, task_id, update))
            await self._write(answers)
            await self._feed.settle(list(found))
        self._under_way.clear()

    async def let_go(self) -> None:
        """Cancel what is under way, to be sent in another attempt; what ended in time is written down."""
        self._stopped, self._left = True, None
        await self._feed.cancel(list(self._under_way))
        found = await self._feed.outcomes(list(self._under_way))
        await self._collect([task_id for task_id, update in found.items() if update.state != "REVOKED"])
        await self._feed.settle(list(self._under_way))
        self._under_way.clear()

    async def forsake(self) -> None:
        """Cancel what an earlier run may have left under way, and whose answers nobody wants any more."""
        lines = self._undone()
        while some := await whole(_next, lines):
            ids = [self._task_id(line) for line in some if isinstance(line, Line)]
            await self._feed.cancel(ids)
            await self._feed.settle(ids)

    async def _look(self) -> None:
        """How much may be under way; and what Redis has lost, if it was away, is sent again."""
        demand = await self._feed.demand()
        self._looked_s = time.monotonic()
        if self._fixed is None:
            self._room = min(_MOST, max(_LEAST, _AHEAD * demand.slots))
        again = self._redis not in ("", demand.redis) or (self._idle and demand.idle)
        self._redis, self._idle = demand.redis, demand.idle
        if again and self._under_way:
            await self._collect(list(self._under_way))
            await self._send(list(self._under_way.values()), again=True)

    async def _fill(self) -> None:
        while self._left is not None and (places := self._room - len(self._under_way)) > 0:
            if (bytes_left := _MOST_BYTES - sum(line.size for line in self._under_way.values())) <= 0:
                return
            some = await whole(_next, self._left, min(_STEP, places), bytes_left)
            if not some:
                self._left = None
                return
            await self._send(some)

    async def _send(self, lines: Sequence[Line | Problem], *, again: bool = False) -> None:
        tasks, problems = [], []
        for line in lines:
            try:
                if isinstance(line, Problem):
                    raise line
                tasks.append(FedTask(self._task_id(line), line.task, self._arguments(line)))
                self._under_way[tasks[-1].id] = line
            except Problem as problem:
                problems.append(Answer.of_problem(problem))
        self._ended += await self._feed.send(tasks, again=again)
        await self._write(problems)

    def _arguments(self, line: Line) -> Json:
        arguments = line.arguments()
        if self._tenant:  # idempotency keys and shared answers are his alone
            arguments = {**arguments, "options": {**(arguments.get("options") or {}), "tenant": self._tenant}}
        return arguments

    async def _collect(self, ids: Sequence[str]) -> None:
        """Write down the outcomes of those that have one."""
        waiting = iter([task_id for task_id in dict.fromkeys(ids) if task_id in self._under_way])
        while some := list(islice(waiting, _STEP)):
            found = await self._feed.outcomes(some)
            if not found:
                continue
            self._heard_s = time.monotonic()
            lines = {task_id: self._under_way[task_id] for task_id in found}
            lost = [line for task_id, line in lines.items() if _is_lost(found[task_id])]
            await self._write(
                [
                    Answer.of_outcome(line, task_id, found[task_id])
                    for task_id, line in lines.items()
                    if not _is_lost(found[task_id])
                ]
            )
            for task_id in found:
                del self._under_way[task_id]
            await self._feed.settle(list(found))
            if lost and not self._stopped:
                for line in lost:
                    self._lost[line.number] = self._lost.get(line.number, 0) + 1
                await self._send(lost)

    async def _write(self, answers: Sequence[Answer]) -> None:
        while answers:
            try:
                await whole(self._answers.write, answers)
                break
            except OSError as error:
                logger.warning("Answers cannot be written (%s); trying again in %g s.", error, _DISK_FULL_S)
            await asyncio.sleep(_DISK_FULL_S)

    def _task_id(self, line: Line) -> str:
        return line.task_id(self._batch, self._attempt, self._lost.get(line.number, 0))

    def _undone(self) -> Iterator[Line | Problem]:
        return (one for one in self._source.lines() if one.number not in self._answers)


def _is_lost(update: Update) -> bool:
    """Whether a line was written down once and is there no more: somebody has changed the file."""
    return update.state == "SUCCESS" and update.result is None


def _next(
    lines: Iterator[Line | Problem], most: int = _STEP, most_bytes: int = _MOST_BYTES
) -> list[Line | Problem]:
    """The next lines, up to the one with which they have so many bytes."""
    found = []
    for line in islice(lines, most):
        found.append(line)
        most_bytes -= line.size if isinstance(line, Line) else 0
        if most_bytes <= 0:
            break
    return found
