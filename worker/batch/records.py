"""What is known of batches, in a folder: one file each, written by who drives it and by nobody else.

    FOLDER/OWNER/batch_ID.json    the record, written last
    FOLDER/OWNER/batch_ID.input   its lines: a link to the uploaded file, which may be removed
    FOLDER/OWNER/batch_ID.cancel  there where its owner has asked to cancel it
    FOLDER/open/batch_ID          there until it has ended; says whose it is; who drives it holds a lock on it

A lock goes with its process, whatever ends that. Gateways on several machines share the folder.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from worker.contracts.base import Json
from worker.storage.files import growing_id, home_of, write_whole

Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
#: It ends in one of these.
ENDED: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})
#: In these it can be cancelled.
CANCELLABLE: frozenset[Status] = frozenset({"validating", "in_progress"})

_ID = re.compile(r"batch_[0-9a-f]{32}")
#: Seconds after which a batch whose record was never written is forgotten.
_UNFINISHED_S = 60.0


@dataclass(frozen=True, slots=True)
class Record:
    """One batch. Times are Unix seconds; None: it has not come to that.

    Attributes:
        id: `batch_` and 32 hexadecimal digits that grow with time.
        owner: whose it is.
        input_file_id: the file of its lines.
        endpoint: the url of all of them.
        completion_window: as it was asked for, for example "24h".
        expires_at: when what is not done is given up.
        metadata: its owner's.
        output_ttl_s: seconds its output is kept; None: for good.
        status: where it is.
        output_file_id, error_file_id: files of its answers; shown at its end, where they hold something.
        total, completed, failed: its lines.
        input_tokens, output_tokens: of its answers.
        model: what its first line asks for.
        problems: what is wrong with its lines: {code, message, param, line}.
        giving_up: the code of what is not done, where it is not going to be.
    """

    id: str
    owner: str
    input_file_id: str
    endpoint: str
    completion_window: str
    created_at: int
    expires_at: int
    output_file_id: str
    error_file_id: str
    metadata: dict[str, str] | None = None
    output_ttl_s: int | None = None
    status: Status = "validating"
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    model: str = ""
    problems: list[Json] = field(default_factory=list)
    giving_up: str = ""

    @property
    def uuid(self) -> uuid.UUID:
        """For the ids of its tasks."""
        return uuid.UUID(self.id.removeprefix("batch_"))

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.status in ENDED

    def shown(self) -> Json:
        """As OpenAI's API has it."""
        errors = None
        if self.status == "failed":
            errors = {"object": "list", "data": self.problems}
        shows_files = self.ended and self.status != "failed"
        total_tokens = self.input_tokens + self.output_tokens
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model or None,
            "errors": errors,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id if shows_files and self.completed else None,
            "error_file_id": self.error_file_id if shows_files and self.failed else None,
            "created_at": self.created_at,
            "in_progress_at": self.in_progress_at,
            "expires_at": self.expires_at,
            "finalizing_at": self.finalizing_at,
            "completed_at": self.completed_at,
            "failed_at": self.failed_at,
            "expired_at": self.expired_at,
            "cancelling_at": self.cancelling_at,
            "cancelled_at": self.cancelled_at,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": {
                "input_tokens": self.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": self.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": total_tokens,
            },
            "metadata": self.metadata,
        }


class Records:
    """Blocking: for a thread.

    Args:
        folder: of all records; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new_id(self) -> str:
        """For a new batch."""
        return growing_id("batch_")

    def create(self, record: Record, lines: Path) -> None:
        """Hand a batch over to whoever drives them.

        Args:
            record: of the batch.
            lines: the file of its lines; it may be removed afterwards.

        Raises:
            FileNotFoundError: it has been removed before.
        """
        gate = self._folder / "open"
        self._home(record.owner).mkdir(parents=True, exist_ok=True)
        gate.mkdir(parents=True, exist_ok=True)
        try:
            os.link(lines, self.input_of(record))
        except FileNotFoundError:
            raise
        except OSError:  # a file system without links
            shutil.copyfile(lines, self.input_of(record))
        try:
            write_whole(gate / record.id, record.owner)
            self.save(record)
        except OSError:
            (gate / record.id).unlink(missing_ok=True)
            self.input_of(record).unlink(missing_ok=True)
            raise

    def input_of(self, record: Record) -> Path:
        """The file of its lines, until it has ended."""
        return self._home(record.owner) / f"{record.id}.input"

    def save(self, record: Record) -> None:
        """Only who drives it."""
        write_whole(self._home(record.owner) / f"{record.id}.json", json.dumps(asdict(record)))

    def get(self, owner: str, batch_id: str) -> Record | None:
        """An owner's batch; None where it is not there, or another's."""
        if not _ID.fullmatch(batch_id):
            return None
        try:
            record = Record(**json.loads((self._home(owner) / f"{batch_id}.json").read_text()))
        except FileNotFoundError:
            return None
        asked_at = self.cancel_asked_at(record)
        if asked_at is not None and record.status in CANCELLABLE:
            return replace(record, status="cancelling", cancelling_at=asked_at)
        return record

    def of_owner(self, owner: str) -> Iterator[Record]:
        """An owner's batches, the newest first."""
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._home(owner)), reverse=True):  # noqa: PTH208 - names will do
                if name.endswith(".json") and (record := self.get(owner, name.removesuffix(".json"))):
                    yield record

    def ask_to_cancel(self, record: Record) -> None:
        """Whoever drives it will see it."""
        (self._home(record.owner) / f"{record.id}.cancel").touch()

    def cancel_asked_at(self, record: Record) -> int | None:
        """When its owner asked to cancel it; None: never."""
        try:
            return int((self._home(record.owner) / f"{record.id}.cancel").stat().st_mtime)
        except FileNotFoundError:
            return None

    def unended(self) -> list[str]:
        """Ids of batches that have not ended, the oldest first."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(
                name
                for name in os.listdir(self._folder / "open")  # noqa: PTH208 - names will do
                if _ID.fullmatch(name)
            )
        return []

    def unended_records(self, but: Container[str] = ()) -> Iterator[Record]:
        """Those batches themselves, without some, the oldest first."""
        for batch_id in self.unended():
            if batch_id in but:
                continue
            gate = self._folder / "open" / batch_id
            with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
                if record := self.get(gate.read_text(), batch_id):
                    yield record
                elif gate.stat().st_mtime < time.time() - _UNFINISHED_S:
                    gate.unlink()  # who created it died before the record was written

    @contextlib.contextmanager
    def claim(self, batch_id: str) -> Iterator[Record | None]:
        """Drive a batch, alone; None where somebody else does, or it has ended."""
        gate = self._folder / "open" / batch_id
        with contextlib.ExitStack() as held:
            try:
                lock = held.enter_context(gate.open("r+"))  # NFS locks only what may be written
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (FileNotFoundError, BlockingIOError):
                yield None
                return
            owner = lock.read()
            path = self._home(owner) / f"{batch_id}.json"
            if not gate.exists() or not path.exists():
                yield None
                return
            yield Record(**json.loads(path.read_text()))

    def close(self, record: Record) -> None:
        """It has ended; only who drives it."""
        self.input_of(record).unlink(missing_ok=True)
        (self._folder / "open" / record.id).unlink(missing_ok=True)
        (self._home(record.owner) / f"{record.id}.cancel").unlink(missing_ok=True)

    def _home(self, owner: str) -> Path:
        return home_of(self._folder, owner)
