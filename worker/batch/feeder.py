"""Drives all open batches of a folder: as many processes may do so as like to."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from worker.batch.job import Job
from worker.batch.records import Records
from worker.batch.threads import whole
from worker.delivery.feeding import Feed
from worker.storage.files import FileStore

logger = logging.getLogger(__name__)

#: Seconds between looks for new batches, and for files that have expired.
_LOOK_S, _SWEEP_S = 0.3, 600.0
#: Seconds after which a batch is taken up again that could not be driven.
_AGAIN_S = 10.0
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
        self._swept_s = float("-inf")

    async def run(self) -> None:
        """Go on until it is cancelled."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(_LOOK_S)
        finally:
            for task in self._driven.values():
                task.cancel()
            await asyncio.gather(*self._driven.values(), return_exceptions=True)

    async def _look(self) -> None:
        for batch_id in await whole(self._records.unended):
            if batch_id not in self._driven and len(self._driven) < MOST_AT_ONCE:
                task = asyncio.create_task(self._drive(batch_id))
                self._driven[batch_id] = task
                task.add_done_callback(lambda _, one=batch_id: self._driven.pop(one, None))  # type: ignore[misc]
        if time.monotonic() - self._swept_s > _SWEEP_S:
            self._swept_s = time.monotonic()
            if removed := await whole(self._files.sweep):
                logger.info("%d expired files were removed.", removed)

    async def _drive(self, batch_id: str) -> None:
        try:
            with self._records.claim(batch_id) as record:
                if record is None:
                    return
                if record.ended:  # its process died before it could say so
                    await whole(self._records.close, record)
                    return
                options = self._options
                feed = Feed(self._client, record.uuid.hex, record.owner, options.result_ttl_s)
                with Job(
                    record, self._records, self._files, feed, most_lines=options.most_lines,
                    most_bytes=options.most_bytes, in_flight=options.in_flight, clock=self._clock,
                ) as job:  # fmt: skip
                    logger.info("%s: %s", batch_id, record.status)
                    while await job.step():
                        pass
                    logger.info("%s: %s", batch_id, job.record.status)
        except Exception:
            logger.exception("%s cannot be driven; trying again in %g s.", batch_id, _AGAIN_S)
            await asyncio.sleep(_AGAIN_S)
