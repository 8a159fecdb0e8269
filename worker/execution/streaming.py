"""What a task says while it says it: a Redis stream of entries `{type, text, seq}`.

`seq` counts the entries of a run from 0. Where a task is run again because its worker died, it begins with 0
again: what came before is void. The last entry, of type `done` or `error`, is written with the outcome of the
task, by the same script: there is one, and only one, whatever ended the task.
"""

import asyncio
import contextlib
import json
from typing import Self

from worker.backends.base import Chunk
from worker.delivery.ledger import Ledger, persist

#: Seconds over which pieces are gathered to one entry. The first goes at once.
GATHER_S = 0.05


class StreamWriter:
    """Writes one run of one task.

    Args:
        ledger: where to.
        task_id: Celery's task id.
        token: of the delivery; another one's stream is not written to.
        ttl_s: seconds a stream is kept after its last piece.
    """

    def __init__(self, ledger: Ledger, task_id: str, token: str, ttl_s: int) -> None:
        self._ledger, self._task_id, self._token, self._ttl_s = ledger, task_id, token, ttl_s
        self._pieces: list[Chunk] = []
        self._seq = 0
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def began(self) -> bool:
        """Whether there has been any piece."""
        return self._writing is not None

    def add(self, chunk: Chunk) -> None:
        """Take a piece; it is written soon."""
        self._pieces.append(chunk)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Return when all pieces are written, before the outcome; who was cancelled waits for nothing."""
        self._closing.set()
        if self._writing is not None and (kind is None or issubclass(kind, Exception)):
            await self._writing

    async def _write(self) -> None:
        while self._pieces:
            entries = [_entry(chunk, self._seq + n) for n, chunk in enumerate(_joined(self._pieces))]
            self._pieces.clear()
            self._seq += len(entries)
            # What is refused is a stream that ended or is another's: the task hears of it otherwise.
            await persist(lambda: self._ledger.stream(self._task_id, self._token, entries, self._ttl_s))  # noqa: B023
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await self._closing.wait()


def _joined(pieces: list[Chunk]) -> list[Chunk]:
    """Neighbours of one choice that are only text become one piece."""
    joined: list[Chunk] = []
    for piece in pieces:
        if joined and joined[-1].index == piece.index and not piece.more and not joined[-1].more:
            joined[-1] = Chunk(joined[-1].text + piece.text, piece.index)
        else:
            joined.append(piece)
    return joined


def _entry(chunk: Chunk, seq: int) -> dict[str, str]:
    entry = {"type": "chunk", "text": chunk.text, "seq": str(seq)}
    if chunk.index:
        entry["index"] = str(chunk.index)
    if chunk.more:
        entry["delta"] = json.dumps(chunk.more, ensure_ascii=False)
    return entry
