"""What was pulled from where, and the lock that keeps two pulls of one model apart.

A pull's own files are in `.pull/` inside `gguf/` and `hf/`: `<key>.json` (the record), `<key>.lock`, and
`<key>/` with what is not installed yet.
"""

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from worker.errors import ModelError
from worker.models.check import Kind
from worker.models.content import RemoteFile, matches


@dataclass(frozen=True)
class Target:
    """Where a model goes.

    Attributes:
        kind: "gguf" or "hf".
        name: FILE of a GGUF model (the first part of a split one); `<org>--<name>` of a folder.
        models_dir: the folder with `gguf/` and `hf/`.
    """

    kind: Kind
    name: str
    models_dir: Path

    @property
    def path(self) -> Path:
        """The GGUF file or the model folder."""
        return self.models_dir / self.kind / self.name

    @property
    def root(self) -> Path:
        """The folder that names in the repository are relative to."""
        return self.path if self.kind == "hf" else self.models_dir / "gguf"

    @property
    def record(self) -> Path:
        """The file that says what was pulled."""
        return self._own.with_name(f"{self._own.name}.json")

    @property
    def lock(self) -> Path:
        """The file that is locked during a pull."""
        return self._own.with_name(f"{self._own.name}.lock")

    @property
    def staging(self) -> Path:
        """The folder for what is not installed yet."""
        return self._own

    @property
    def _own(self) -> Path:
        return self.models_dir / self.kind / ".pull" / self.name.replace("/", "--")


@dataclass(frozen=True)
class Record:
    """What was pulled.

    Attributes:
        repo: from where.
        asked: FILE as it was asked for; empty for none.
        revision: branch, tag or commit asked for.
        commit: what that was then.
        target: name of the target.
        files: name → content.
        mtimes_ns: name → modification time when its checksum was last seen to be right.
    """

    repo: str
    asked: str
    revision: str
    commit: str
    target: str
    files: dict[str, RemoteFile]
    mtimes_ns: dict[str, int]

    def intact(self, target: Target) -> bool:
        """Whether everything that was pulled is still there as it was; hashed again only where touched."""
        for name, file in self.files.items():
            path = target.root / name
            try:
                status = path.stat()
            except OSError:
                return False
            if status.st_size != file.size_bytes:
                return False
            if status.st_mtime_ns != self.mtimes_ns.get(name) and not matches(path, file):
                return False
        return True


def read_record(path: Path) -> Record | None:
    """The record at `path`; None where there is none that can be understood."""
    try:
        fields = json.loads(path.read_bytes())
        fields["files"] = {name: RemoteFile(**file) for name, file in fields["files"].items()}
        return Record(**fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def records(models_dir: Path, kind: Kind) -> Iterator[Record]:
    """Every record of one kind."""
    for path in sorted((models_dir / kind / ".pull").glob("*.json")):
        if record := read_record(path):
            yield record


def write_record(target: Target, record: Record) -> None:
    """Write the record of `target`, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    new = target.record.with_suffix(".new")
    new.write_text(json.dumps(asdict(record), indent=1))
    new.replace(target.record)


@contextmanager
def locked(target: Target, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of `target`; the kernel frees it when the process dies, however it dies.

    Args:
        target: what is pulled.
        waiting: called once where another process holds it.

    Raises:
        ModelError: the models folder cannot be written to.
    """
    try:
        target.lock.parent.mkdir(parents=True, exist_ok=True)
        stream = target.lock.open("ab")
    except OSError as error:
        raise ModelError(
            f"{target.lock.parent} cannot be written: {error.strerror or error}. Set MODELS_DIR to a folder "
            "that can, or change its owner."
        ) from error
    with stream:
        _lock(stream, waiting)
        yield


def _lock(stream: BinaryIO, waiting: Callable[[], None]) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError:
        # A file system without locks: checksums still keep damage out.
        return
