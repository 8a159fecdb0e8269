"""A batch from the shell: a file of lines, a file of answers, and a note beside it by which it is resumed.

OUT.run holds which batch OUT belongs to, and in the end what it took.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from worker.errors import LocalError
from worker.storage.files import write_whole


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of a batch.

    Attributes:
        batch: its id, 32 hexadecimal digits.
        input: the file of its lines.
        input_sha256: of that file.
        asked: what is asked of its rows, as JSON; "" where its lines say so.
        errors: the file for lines without an answer.
        lines: how many there are.
        attempt: times it was stopped.
        seconds: it took so far.
        completed, failed: lines that are done.
        input_tokens, output_tokens: of the answers.
    """

    batch: str
    input: str
    input_sha256: str
    asked: str
    errors: str
    lines: int
    attempt: int = 0
    seconds: float = 0.0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def uuid(self) -> uuid.UUID:
        """For the ids of its tasks."""
        return uuid.UUID(self.batch)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a batch's answers go.

    Attributes:
        output: file for answers.
        errors: file for lines that have none.
    """

    output: Path
    errors: Path

    @property
    def note(self) -> Path:
        """The file that says which batch this is."""
        return self.output.with_name(self.output.name + ".run")

    def check(self, input_path: Path) -> None:
        """Refuse what would destroy a file.

        Raises:
            LocalError: two of the files are the same one.
        """
        named = {
            "the input": input_path,
            "--output": self.output,
            "--errors": self.errors,
            "OUTPUT.run": self.note,
        }
        for (one, path), (other, another) in itertools.combinations(named.items(), 2):
            same = path.resolve() == another.resolve()
            if same or (path.exists() and another.exists() and path.samefile(another)):
                raise LocalError(f"{one} and {other} are the same file: {path}.")

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Have it alone.

        Raises:
            LocalError: another process has it, or it cannot be written to.
        """
        with contextlib.ExitStack() as held:
            try:
                self.output.parent.mkdir(parents=True, exist_ok=True)
                lock: IO[bytes] = held.enter_context(self.output.open("ab"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LocalError(f"Another process writes to {self.output}.") from None
            except OSError as error:
                raise LocalError(f"{self.output} cannot be written to: {error.strerror}.") from None
            yield

    def begin(self, input_path: Path, asked: str, lines: int) -> Note:
        """Begin a batch; what was there is gone."""
        self.output.write_bytes(b"")
        self.errors.unlink(missing_ok=True)
        note = Note(
            uuid.uuid4().hex, str(input_path.resolve()), _sha256(input_path), asked,
            str(self.errors.resolve()), lines,
        )  # fmt: skip
        self.save(note)
        return note

    def resumed(self, input_path: Path, asked: str) -> Note:
        """The batch that was begun here.

        Raises:
            LocalError: there is none, or it was another.
        """
        try:
            note = Note(**json.loads(self.note.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            raise LocalError(
                f"There is nothing to resume: {self.note} does not say which batch {self.output} belongs to."
            ) from None
        if note.input_sha256 != _sha256(input_path):
            raise LocalError(f"{input_path} is not what it was when this batch began ({note.input}).")
        if note.errors != str(self.errors.resolve()):
            raise LocalError(f"This batch began with --errors {note.errors}.")
        if note.asked != asked:
            raise LocalError(f"This batch began with another template: {note.asked or 'none'}.")
        return note

    def save(self, note: Note) -> None:
        """Write down how it stands."""
        write_whole(self.note, json.dumps(asdict(note), indent=1))

    def stopped(self, note: Note) -> Note:
        """It is going to be stopped: what is under way will be sent anew."""
        note = replace(note, attempt=note.attempt + 1)
        self.save(note)
        return note


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Stopwatch:
    """Seconds a batch took, those of earlier attempts included."""

    def __init__(self, before_s: float) -> None:
        self._began = time.monotonic() - before_s

    @property
    def seconds(self) -> float:
        """Until now."""
        return time.monotonic() - self._began
