"""Posters as lines, and a folder with a file for each that is done.

    {"items": [{"id": "p1", "imageUrl": "https://…", "title": "…", "description": "…", "year": 1966}]}

`DIR/p1.json` is what was found, `DIR/errors.jsonl` names those for which there is nothing.
"""

import fcntl
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from worker.batch.answers import Answer, Usage
from worker.batch.lines import Line, Problem
from worker.contracts.base import Json, read_object
from worker.contracts.openai import TASK_URL
from worker.errors import LocalError
from worker.storage.files import write_whole

TASK = "image.analyze"
ERRORS, NOTE = "errors.jsonl", ".posters.json"

#: What may not be in a file's name, here or on the systems it is copied to.
_UNFIT = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|%]|^\.')
_MOST_NAME_BYTES = 200
#: Fields of an item that are arguments of the task under the same name.
_TOLD = ("title", "description", "year")


class ItemProblem(Problem):
    """An item that is no poster; it is known by its name."""

    @property
    def told(self) -> str:
        """What is wrong."""
        return self.message


@dataclass(frozen=True, slots=True)
class PosterLine(Line):
    """A poster; its task follows from what is asked, not from its place, for lists grow."""

    def task_id(self, batch: uuid.UUID, attempt: int, lost: int = 0) -> str:
        """Always the same for the same poster and attempt, as long as its answer was not lost once more."""
        asked = hashlib.sha256(json.dumps(self.body, sort_keys=True).encode()).hexdigest()
        return str(uuid.uuid5(batch, f"{attempt}:{self.custom_id}:{asked}{':anew' * lost}"))


@dataclass(frozen=True, slots=True)
class Posters:
    """The posters of a list, and what is asked of them.

    Attributes:
        items: as they came.
        names: what each is called: its id, its place where it has none, both where another has it too.
        folder: where the list is; pictures without a scheme are files beside it.
        language: ISO 639 code of the answers.
    """

    items: list[Any]
    names: list[str]
    folder: Path
    language: str

    @classmethod
    def read(cls, path: Path, language: str) -> Self:
        """The list in a file.

        Raises:
            LocalError: there is none.
        """
        try:
            items = read_object(path.read_bytes()).get("items")
        except OSError as error:
            raise LocalError(f"{path} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise LocalError(f"{path}: {error}.") from None
        if not isinstance(items, list) or not items:
            raise LocalError(
                f"{path}: `items` has to be a list of posters: "
                '{"items": [{"id": "p1", "imageUrl": "https://…"}]}.'
            )
        return cls(items, _names(items), path.parent.resolve(), language)

    def lines(self) -> Iterator[Line | Problem]:
        """A line an item, numbered from 1."""
        for number, item in enumerate(self.items, 1):
            try:
                yield self._line(number, item)
            except Problem as problem:
                yield problem

    def name(self, number: int) -> str:
        """What an item is called."""
        return self.names[number - 1]

    def _line(self, number: int, item: Any) -> Line:
        if not isinstance(item, dict):
            raise ItemProblem(number, "invalid_item", "An item has to be an object.")
        poster_id, address = _id_of(item), item.get("imageUrl")
        if not poster_id:
            raise ItemProblem(number, "invalid_id", "`id` has to be a string.", "id")
        if poster_id != self.name(number):
            raise ItemProblem(
                number, "duplicate_id", f"`id` {poster_id!r} is that of another item, too.", "id"
            )
        if len(file_name(poster_id).encode()) > _MOST_NAME_BYTES:
            raise ItemProblem(number, "invalid_id", f"`id` is longer than {_MOST_NAME_BYTES} bytes.", "id")
        if not isinstance(address, str) or not address:
            raise ItemProblem(number, "invalid_image_url", "`imageUrl` has to be a string.", "imageUrl")
        told = {name: item[name] for name in _TOLD if item.get(name) not in (None, "")}
        body = {"image": self._image(address), **told, "language": self.language}
        return PosterLine(number, poster_id, TASK_URL + TASK, body, len(json.dumps(body)))

    def _image(self, address: str) -> Json:
        if address.startswith("data:"):
            return {"data": address}
        if urlsplit(address).scheme:
            return {"url": address}
        return {"path": str(self.folder / address)}


def _id_of(item: object) -> str:
    """The id of an item; "" where it has none."""
    found = item.get("id") if isinstance(item, dict) else None
    return str(found).strip() if isinstance(found, str | int) and not isinstance(found, bool) else ""


def _names(items: list[Any]) -> list[str]:
    names, taken = [], set[str]()
    for number, item in enumerate(items, 1):
        name = _id_of(item)
        name = f"{name} (item {number})".strip() if not name or name in taken else name
        taken.add(name)
        names.append(name)
    return names


def file_name(poster_id: str) -> str:
    """The file of a poster."""
    return _UNFIT.sub(lambda found: f"%{ord(found.group()):02X}", poster_id) + ".json"


@dataclass(frozen=True, slots=True)
class Note:
    """What the folder remembers of its run.

    Attributes:
        batch: for the ids of its tasks, 32 hexadecimal digits.
        attempt: times it was stopped.
    """

    batch: str
    attempt: int = 0


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
        errors: number of each that failed, and why.
    """

    def __init__(self, folder: Path, posters: Posters, *, again: bool, overwrite: bool) -> None:
        self._folder, self._posters, self._again, self._overwrite = folder, posters, again, overwrite
        self._done: set[int] = set()
        self._lock = -1
        self.completed = self.failed = 0
        self.usage = Usage()
        self.note = Note(uuid.uuid4().hex)
        self.errors: dict[int, Json] = {}

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._folder, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._look()
        except BlockingIOError:
            self._let_go()
            raise LocalError(f"Another process writes to {self._folder}.") from None
        except OSError as error:
            self._let_go()
            raise LocalError(f"{self._folder} cannot be used: {error.strerror}.") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()

    def __contains__(self, number: int) -> bool:
        return number in self._done

    @property
    def count(self) -> int:
        """Posters that are done."""
        return self.completed + self.failed

    def path(self, number: int) -> Path:
        """The file of an item."""
        return self._folder / file_name(self._posters.name(number))

    def write(self, answers: Sequence[Answer]) -> None:
        """As `Sink.write` says."""
        for answer in answers:
            if answer.number in self._done:
                continue
            said = answer.said
            if answer.good:
                body: Json = said["response"]["body"]
                write_whole(self.path(answer.number), self._found(answer.number, body))
                self.completed += 1
                self.usage.add(body)
            else:
                self._fail(answer.number, _error_in(said))
            self._done.add(answer.number)

    def stopped(self) -> None:
        """It is going to be stopped: what is under way will be sent anew."""
        self._save(Note(self.note.batch, self.note.attempt + 1))

    def _look(self) -> None:
        """What is done already, and which run this is."""
        errors = self._folder / ERRORS
        if self._again or self._overwrite:
            errors.unlink(missing_ok=True)
        try:
            note = Note(**json.loads((self._folder / NOTE).read_text()))
            fresh = self._again or self._overwrite
            self._save(Note(note.batch, note.attempt + fresh))
        except (FileNotFoundError, ValueError, TypeError):
            self._save(self.note)
        if self._overwrite:
            return
        failed = dict(_errors_in(errors))
        for one in self._posters.lines():
            name = self._posters.name(one.number)
            if isinstance(one, Line) and self.path(one.number).exists():
                self._done.add(one.number)
                self.completed += 1
            elif name in failed:
                self._done.add(one.number)
                self.errors[one.number] = failed[name]
                self.failed += 1

    def _found(self, number: int, result: Json) -> str:
        item: Json = self._posters.items[number - 1]
        said = {
            "id": self._posters.name(number),
            "item": item,
            "language": self._posters.language,
            **result,
            "analyzed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return json.dumps(said, ensure_ascii=False, indent=1)

    def _fail(self, number: int, error: Json) -> None:
        said = {"id": self._posters.name(number), **error}
        with (self._folder / ERRORS).open("a") as file:
            file.write(json.dumps(said, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.errors[number] = said
        self.failed += 1

    def _save(self, note: Note) -> None:
        self.note = note
        write_whole(self._folder / NOTE, json.dumps(asdict(note)))

    def _let_go(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _error_in(said: Json) -> Json:
    """Why there is no answer."""
    response = said.get("response") or {}
    error: Json = (response.get("body") or {}).get("error") or said.get("error") or {}
    return {"code": error.get("code") or error.get("type"), "message": error.get("message")}


def _errors_in(path: Path) -> Iterator[tuple[str, Json]]:
    """The errors of an earlier run; a line that was not written to its end is left out."""
    if path.exists():
        for raw in path.read_text().splitlines():
            try:
                said = json.loads(raw)
            except ValueError:
                continue
            yield str(said.get("id")), said
