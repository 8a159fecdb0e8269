"""Uploaded files and files of answers in a folder, each known by an id and seen by its owner alone.

FOLDER/OWNER/file-ID.data beside file-ID.json, which is written last: what has none is not there yet. Owners
are hashed, so that no name of theirs is a path.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

_ID = re.compile(r"file-[0-9a-f]{32}")
_PIECE_BYTES = 1 << 20
#: Seconds after which what an upload left behind that was cut off is removed.
_LEFT_BEHIND_S = 86400
#: Seconds a file may be written for before it is shown: longer than any batch.
_WRITTEN_S = 40 * 86400
_UNNAMED = "file"
_MOST_NAME_CHARS = 255


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file.

    Attributes:
        id: `file-` and 32 hexadecimal digits that grow with time.
        bytes: its size.
        created_at: Unix seconds.
        expires_at: Unix seconds after which it is removed; None: never.
        filename: what its owner calls it; never used as a path.
        purpose: `batch` or `batch_output`.
    """

    id: str
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str


class FileStore:
    """Blocking: for a thread.

    Args:
        folder: of all files; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(
        self, owner: str, source: BinaryIO, filename: str, purpose: str, expires_at: int | None = None
    ) -> StoredFile:
        """Keep what can be read of `source`.

        Raises:
            OSError: the disk does not take it; nothing is left of it.
        """
        file_id = self.new_id()
        target = self.path(owner, file_id)
        part = target.with_suffix(".part")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                while piece := source.read(_PIECE_BYTES):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            return self.publish(owner, file_id, filename, purpose, expires_at)
        except BaseException:
            part.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
            raise

    def new_id(self) -> str:
        """An id for a file that is written by somebody else, to where `path` says, and published then."""
        return growing_id("file-")

    def path(self, owner: str, file_id: str) -> Path:
        """Where the bytes of a file are; the id has to be one of ours."""
        return self._home(owner) / f"{file_id}.data"

    def publish(
        self, owner: str, file_id: str, filename: str, purpose: str, expires_at: int | None = None
    ) -> StoredFile:
        """Show a file whose bytes are whole; doing so again changes nothing."""
        if known := self.get(owner, file_id):
            return known
        size = self.path(owner, file_id).stat().st_size
        stored = StoredFile(file_id, size, int(time.time()), expires_at, _plain(filename), purpose)
        write_whole(self._card(owner, file_id), json.dumps(asdict(stored)))
        return stored

    def get(self, owner: str, file_id: str) -> StoredFile | None:
        """An owner's file; None where it is not there, or another's."""
        if not _ID.fullmatch(file_id):
            return None
        try:
            stored = StoredFile(**json.loads(self._card(owner, file_id).read_text()))
        except FileNotFoundError:
            return None
        return None if _expired(stored) else stored

    def of_owner(self, owner: str) -> Iterator[StoredFile]:
        """An owner's files, the newest first."""
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._home(owner)), reverse=True):  # noqa: PTH208 - names will do
                if name.endswith(".json") and (stored := self.get(owner, name.removesuffix(".json"))):
                    yield stored

    def delete(self, owner: str, file_id: str) -> bool:
        """Remove a file; whether there was one."""
        if self.get(owner, file_id) is None:
            return False
        self._remove(self._card(owner, file_id))
        return True

    def sweep(self) -> int:
        """Remove what has expired, and what uploads left behind; returns how many files."""
        removed = 0
        for card in self._folder.glob("*/file-*.json"):
            try:
                expired = _expired(StoredFile(**json.loads(card.read_text())))
            except FileNotFoundError:
                continue
            except (ValueError, TypeError) as error:  # another version's, or damaged: not ours to remove
                logger.warning("%s cannot be read: %s", card, error)
                continue
            if expired:
                self._remove(card)
                removed += 1
        now = time.time()
        for pattern, kept_s in (
            ("*/file-*.part", _LEFT_BEHIND_S), ("*/.file-*", _LEFT_BEHIND_S), ("*/file-*.data", _WRITTEN_S),
        ):  # fmt: skip
            for left in self._folder.glob(pattern):
                with contextlib.suppress(FileNotFoundError):
                    known = left.suffix == ".data" and left.with_suffix(".json").exists()
                    if not known and left.stat().st_mtime < now - kept_s:
                        left.unlink()
        return removed

    def _remove(self, card: Path) -> None:
        card.unlink(missing_ok=True)  # first: without it nobody sees the bytes
        card.with_suffix(".data").unlink(missing_ok=True)

    def _home(self, owner: str) -> Path:
        return home_of(self._folder, owner)

    def _card(self, owner: str, file_id: str) -> Path:
        return self._home(owner) / f"{file_id}.json"


def growing_id(prefix: str) -> str:
    """A new id: 32 hexadecimal digits that grow with time."""
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def home_of(folder: Path, owner: str) -> Path:
    """The folder of an owner, whatever his name."""
    return folder / hashlib.sha256(owner.encode()).hexdigest()[:32]


def write_whole(target: Path, content: str | bytes) -> None:
    """Write a file so that whoever reads it finds the old or the new one, also after a crash."""
    draft = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _expired(stored: StoredFile) -> bool:
    return stored.expires_at is not None and stored.expires_at <= time.time()


def _plain(filename: str) -> str:
    """The last part of a name, without what is no text."""
    last = re.split(r"[/\\]", filename)[-1]
    return "".join(char for char in last if char.isprintable())[:_MOST_NAME_CHARS] or _UNNAMED
