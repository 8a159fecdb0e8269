"""A batch's life, one step after the other. Each can be taken again by somebody else where a process died.

validating ──▶ in_progress ──▶ finalizing ──▶ completed
    │               │  └─ its window is over ──▶ finalizing ──▶ expired
    ▼               └──── cancel ──▶ cancelling ──▶ cancelled
  failed
"""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

from worker.batch.answers import Answers, ForeignFile
from worker.batch.checking import checked
from worker.batch.lines import JsonLines, Problem
from worker.batch.records import Record, Records
from worker.batch.running import Run
from worker.batch.threads import whole
from worker.delivery.feeding import Feed
from worker.storage.files import FileStore

logger = logging.getLogger(__name__)

#: Seconds between two times its counts are written down for those who look.
_SHOW_S = 1.0

CANCELLED, EXPIRED = "batch_cancelled", "batch_expired"
_WHY = {
    CANCELLED: "The batch was cancelled before this line was done.",
    EXPIRED: "The batch's completion window was over before this line was done.",
}


class Job:
    """Drives one batch. Use it as a context manager, claimed.

    Args:
        record: as it was last saved.
        records: where it is saved.
        files: where its input is and its answers go.
        feed: its tasks.
        most_lines: it may have; 0: any number.
        most_bytes: of one line.
        in_flight: lines under way; None: as many as keep the workers busy.
        clock: Unix seconds.
    """

    def __init__(
        self,
        record: Record,
        records: Records,
        files: FileStore,
        feed: Feed,
        *,
        most_lines: int = 0,
        most_bytes: int = 256 * 1024,
        in_flight: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.record = record
        self._records, self._files, self._feed, self._clock = records, files, feed, clock
        self._most_lines, self._in_flight = most_lines, in_flight
        self._source = JsonLines(records.input_of(record), record.endpoint, most_bytes)
        self._most_bytes = most_bytes
        self._answers: Answers | None = None
        self._run: Run | None = None
        self._shown_s = 0.0
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    async def step(self, wait_s: float = 1.0) -> bool:
        """Go on; whether there is more to do.

        Args:
            wait_s: longest wait for a task to end, seconds.
        """
        try:
            match self.record.status:
                case "validating":
                    await self._validate()
                case "in_progress" | "cancelling":
                    await self._work(wait_s)
                case "finalizing":
                    await self._finish()
        except (FileNotFoundError, ForeignFile) as error:
            await self._fail([Problem(0, "file_missing", str(error))])
        return not self.record.ended

    async def _validate(self) -> None:
        report = await checked(self._source, self._most_lines, self._most_bytes)
        if report.wrong:
            await self._fail(report.problems)
            return
        await self._save(
            status="in_progress", in_progress_at=self._now(), total=report.lines, model=report.model
        )

    async def _work(self, wait_s: float) -> None:
        run, answers = await self._started()
        if not self.record.giving_up:
            await self._see_whether_to_give_up()
        if why := self.record.giving_up:
            await run.end(why, _WHY[why])
            more = False
        else:
            more = await run.step(wait_s)
        if more:
            await self._show(answers)
        elif why == CANCELLED:
            await self._finish()
        else:
            await self._save(status="finalizing", finalizing_at=self._now())

    async def _see_whether_to_give_up(self) -> None:
        asked_at = await whole(self._records.cancel_asked_at, self.record)
        if asked_at is not None:
            await self._save(status="cancelling", cancelling_at=asked_at, giving_up=CANCELLED)
        elif self._clock() >= self.record.expires_at:
            await self._save(giving_up=EXPIRED)

    async def _started(self) -> tuple[Run, Answers]:
        """Read what is answered already."""
        if self._run is None or self._answers is None:
            record = self.record
            output, errors = (
                self._files.path(record.owner, file_id)
                for file_id in (record.output_file_id, record.error_file_id)
            )
            answers = Answers(record.uuid.hex, output, errors)
            self._answers = await whole(self._resources.enter_context, answers)
            self._run = Run(
                record.uuid, self._source, answers, self._feed, tenant=record.owner, in_flight=self._in_flight
            )
        return self._run, self._answers

    async def _finish(self) -> None:
        """Show the files, and then that it has ended."""
        _, answers = await self._started()
        record = self.record
        expires_at = None if record.output_ttl_s is None else self._now() + record.output_ttl_s
        for lines, file_id, name in (
            (answers.completed, record.output_file_id, f"{record.id}_output.jsonl"),
            (answers.failed, record.error_file_id, f"{record.id}_error.jsonl"),
        ):
            if lines:
                await whole(self._files.publish, record.owner, file_id, name, "batch_output", expires_at)
            else:
                self._files.path(record.owner, file_id).unlink(missing_ok=True)
        now, counts = self._now(), _counts(answers)
        match record.giving_up:
            case "batch_cancelled":
                await self._save(status="cancelled", cancelled_at=now, **counts)
            case "batch_expired":
                await self._save(status="expired", expired_at=now, **counts)
            case _:
                await self._save(status="completed", completed_at=now, **counts)
        await whole(self._records.close, self.record)

    async def _fail(self, problems: Sequence[Problem]) -> None:
        told = [
            {"code": one.code, "line": one.number or None, "message": one.message, "param": one.param}
            for one in problems
        ]
        await self._save(status="failed", failed_at=self._now(), problems=told)
        await whole(self._records.close, self.record)

    async def _show(self, answers: Answers) -> None:
        """Its counts, now and then, for those who look."""
        if time.monotonic() - self._shown_s > _SHOW_S:
            self._shown_s = time.monotonic()
            if answers.count != self.record.completed + self.record.failed:
                await self._save(**_counts(answers))

    async def _save(self, **changes: Any) -> None:
        self.record = replace(self.record, **changes)
        await whole(self._records.save, self.record)

    def _now(self) -> int:
        return int(self._clock())


def _counts(answers: Answers) -> dict[str, int]:
    return {
        "completed": answers.completed,
        "failed": answers.failed,
        "input_tokens": answers.usage.input_tokens,
        "output_tokens": answers.usage.output_tokens,
    }
