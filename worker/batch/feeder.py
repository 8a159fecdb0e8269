"""Drives all open batches of a folder: as many processes may do so as like to."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from worker.batch.job import Job
from worker.batch.records import Record, Records
from worker.batch.threads import whole
from worker.delivery.feeding import Feed
from worker.storage.files import FileStore

logger = logging.getLogger(__name__)

#: Seconds between looks for new batches, and for files that have expired.
_LOOK_S, _SWEEP_S = 0.3, 600.0
#: Seconds after which a batch is looked at again that could not be driven, or was driven by another process.
_AGAIN_S = 5.0
#: Where both are in FILES_DIR.
FILES, BATCHES = "files", "batches"
#: Batches driven at once; each uses a connection to Redis.
MOST_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How batches are driven.

    Attributes:
        most_lines: one may have; 0: any number.
        most_bytes: of one line.
        in_flight: lines of one batch under way; None: as many as keep the workers busy.
        result_ttl_s: seconds it is known that a line's task is over.
    """

    most_lines: int
    most_bytes: int
    in_flight: int | None
    result_ttl_s: int


class Feeder:
    """Drives batches until it is stopped; what it leaves, the next one goes on with.

    Args:
        client: of the broker's Redis.
        records: of the batches.
        files: of their lines and answers.
        options: of all of them.
        clock: Unix seconds.
    """

    def __init__(
        self,
        client: Redis,
        records: Records,
        files: FileStore,
        options: BatchOptions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._records, self._files = client, records, files
        self._options, self._clock = options, clock
        self._driven: dict[str, asyncio.Task[None]] = {}
        self._owners: dict[str, str] = {}
        self._not_before: dict[str, float] = {}
        self._swept_s = float("-inf")

    async def run(self) -> None:
        """Go on until it is cancelled."""
        try:
            while True:
                try:
                    await self._look()
                except Exception:
                    logger.exception("The batches cannot be looked at; trying again.")
                    await asyncio.sleep(_AGAIN_S)
                await asyncio.sleep(_LOOK_S)
        finally:
            for task in self._driven.values():
                task.cancel()
            await asyncio.gather(*self._driven.values(), return_exceptions=True)

    async def _look(self) -> None:
        now = time.monotonic()
        waiting = [
            record
            for record in await whole(lambda: list(self._records.unended_records(but=self._driven)))
            if self._not_before.get(record.id, now) <= now
        ]
        while waiting:
            # Those that are only to be ended do not wait for a place; of the others, his who has the fewest.
            record = min(waiting, key=self._urgency)
            if len(self._driven) >= MOST_AT_ONCE and not self._to_be_ended(record):
                break
            waiting.remove(record)
            await self._begin(record.id)
        if now - self._swept_s > _SWEEP_S:
            self._swept_s = now
            if removed := await whole(self._files.sweep):
                logger.info("%d expired files were removed.", removed)

    def _urgency(self, record: Record) -> tuple[bool, int, str]:
        his = sum(owner == record.owner for owner in self._owners.values())
        return not self._to_be_ended(record), his, record.id

    def _to_be_ended(self, record: Record) -> bool:
        return record.status == "cancelling" or record.expires_at <= self._clock()

    async def _begin(self, batch_id: str) -> None:
        """Drive a batch, unless another process does."""
        with contextlib.ExitStack() as held:
            record = held.enter_context(self._records.claim(batch_id))
            if record is None:
                self._not_before[batch_id] = time.monotonic() + _AGAIN_S
                return
            if record.ended:  # its process died before it could say so
                await whole(self._records.close, record)
                return
            self._owners[batch_id] = record.owner
            self._driven[batch_id] = asyncio.create_task(self._drive(record, held.pop_all()))

    async def _drive(self, record: Record, claim: contextlib.ExitStack) -> None:
        options = self._options
        feed = Feed(self._client, record.uuid.hex, record.owner, options.result_ttl_s)
        job = Job(
            record, self._records, self._files, feed, most_lines=options.most_lines,
            most_bytes=options.most_bytes, in_flight=options.in_flight, clock=self._clock,
        )  # fmt: skip
        try:
            with claim, job:
                logger.info("%s: %s", record.id, record.status)
                while await job.step():
                    pass
                logger.info("%s: %s", record.id, job.record.status)
        except Exception:
            logger.exception("%s cannot be driven; trying again in %g s.", record.id, _AGAIN_S)
            self._not_before[record.id] = time.monotonic() + _AGAIN_S
        finally:
            del self._driven[record.id], self._owners[record.id]
