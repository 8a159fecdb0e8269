"""A folder with a file for each poster that is done: what is there is not done again.

`DIR/p1.json` is what was found, `DIR/errors.jsonl` names those for which there is nothing.
"""

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from worker.batch.answers import Answer, Appended, Usage
from worker.batch.lines import Line
from worker.batch.posters import Posters, file_name
from worker.contracts.base import Json
from worker.errors import LocalError
from worker.storage.files import write_whole

ERRORS = "errors.jsonl"
#: What the folder remembers of its run, and since when all are done once more: older files are no answers.
_NOTE, _SINCE = ".posters.json", ".posters.since"


@dataclass(frozen=True, slots=True)
class Note:
    """What the folder remembers of its run.

    Attributes:
        batch: for the ids of its tasks, 32 hexadecimal digits.
        attempt: times it was stopped.
        again: name → times it has failed and was to be tried once more.
    """

    batch: str
    attempt: int = 0
    again: dict[str, int] = field(default_factory=dict)


class PosterFolder:
    """Use it as a context manager: entering claims the folder and looks at what is done.

    Only one process may have it. Blocking: for a thread.

    Args:
        folder: made where it is not there.
        posters: the list.
        again: whether those that have failed are done once more.
        overwrite: whether all are.

    Attributes:
        completed: posters that have a file.
        failed: posters that have an error instead.
        usage: tokens of those done since it was entered.
        note: of the run.
        former: the run before, whose tasks nobody wants any more; None: there is none.
        errors: number of each that failed, and why.
    """

    def __init__(self, folder: Path, posters: Posters, *, again: bool, overwrite: bool) -> None:
        self._folder, self._posters, self._again, self._overwrite = folder, posters, again, overwrite
        self._done: set[int] = set()
        self._open = contextlib.ExitStack()
        self._errors = Appended(folder / ERRORS)
        self.completed = self.failed = 0
        self.usage = Usage()
        self.note = Note(uuid.uuid4().hex)
        self.former: Note | None = None
        self.errors: dict[int, Json] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                lock = os.open(self._folder, os.O_RDONLY)
                opened.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._look(opened)
            except BlockingIOError:
                raise LocalError(f"Another process writes to {self._folder}.") from None
            except OSError as error:
                raise LocalError(f"{self._folder} cannot be used: {error.strerror}.") from None
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        if not self.failed:
            (self._folder / ERRORS).unlink(missing_ok=True)

    def __contains__(self, number: int) -> bool:
        return number in self._done

    @property
    def count(self) -> int:
        """Posters that are done."""
        return self.completed + self.failed

    def path(self, number: int) -> Path:
        """The file of an item."""
        return self._folder / file_name(self._posters.name(number))

    def found(self) -> list[Path]:
        """The files there are, in the order of the list."""
        paths = (self.path(number) for number in range(1, len(self._posters.items) + 1))
        return list(dict.fromkeys(path for path in paths if path.exists()))

    def write(self, answers: Sequence[Answer]) -> None:
        """As `Sink.write` says."""
        for answer in answers:
            if answer.number in self._done:
                continue
            if answer.good:
                body: Json = answer.said["response"]["body"]
                write_whole(
                    self.path(answer.number), _encoded(self._described(answer.number, body), indent=1)
                )
                self.completed += 1
                self.usage.add(body)
            else:
                self._fail(answer.number, _error_in(answer.said))
            self._done.add(answer.number)

    def stopped(self) -> None:
        """It is going to be stopped: what is under way will be sent anew."""
        self._save(replace(self.note, attempt=self.note.attempt + 1))

    def _look(self, opened: contextlib.ExitStack) -> None:
        """What is done already, and which run this is."""
        note, since = self._noted(), self._folder / _SINCE
        if self._overwrite:
            self.former, note = note, None
            since.write_bytes(b"")
        note = note or self.note
        opened.enter_context(self._errors)
        failed = self._failed()
        if self._again:
            again = {name: note.again.get(name, 0) + 1 for name in failed}
            note = replace(note, again={**note.again, **again})
        if self._again or self._overwrite:
            failed = {}
            self._errors.clear()
        self._save(note)
        begun_ns = since.stat().st_mtime_ns if since.exists() else 0
        for one in self._posters.lines():
            name, path = self._posters.name(one.number), self.path(one.number)
            if isinstance(one, Line) and path.exists() and path.stat().st_mtime_ns > begun_ns:
                self._done.add(one.number)
                self.completed += 1
            elif name in failed:
                self._done.add(one.number)
                self.errors[one.number] = failed[name]
                self.failed += 1

    def _noted(self) -> Note | None:
        try:
            return Note(**json.loads((self._folder / _NOTE).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _failed(self) -> dict[str, Json]:
        """The errors of an earlier run, by name; what was not written to its end is cut off."""
        failed = {}
        for raw in self._errors.recover():
            try:
                said = json.loads(raw)
            except ValueError:
                continue
            if isinstance(said, dict):
                failed[str(said.get("id"))] = said
        self._errors.cut()
        return failed

    def _described(self, number: int, result: Json) -> Json:
        return {
            "id": self._posters.name(number),
            "item": self._posters.items[number - 1],
            "language": self._posters.language,
            **result,
            "analyzed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _fail(self, number: int, error: Json) -> None:
        said = {"id": self._posters.name(number), **error}
        self._errors.append(_encoded(said).encode() + b"\n")
        self.errors[number] = said
        self.failed += 1

    def _save(self, note: Note) -> None:
        self.note = note
        write_whole(self._folder / _NOTE, json.dumps(asdict(note)))


def _encoded(said: Json, indent: int | None = None) -> str:
    """As JSON that UTF-8 can carry: a model may be cut off in the middle of a character."""
    text = json.dumps(said, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(said, indent=indent)
    return text


def _error_in(said: Json) -> Json:
    """Why there is no answer."""
    response = said.get("response") or {}
    error: Json = (response.get("body") or {}).get("error") or said.get("error") or {}
    return {"code": error.get("code") or error.get("type"), "message": error.get("message")}
