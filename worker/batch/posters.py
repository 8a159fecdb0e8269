"""The posters of a list as lines.

{"items": [{"id": "p1", "imageUrl": "https://…", "title": "…", "description": "…", "year": 1966}]}

"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from worker.batch.lines import Line, Problem
from worker.contracts.base import Json, clean_text, read_object
from worker.contracts.llm import clean_json
from worker.contracts.openai import TASK_URL
from worker.errors import LocalError

TASK = "image.analyze"

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
    """A poster; its task follows from what is asked, not from its place, for lists grow.

    Attributes:
        again: times it has failed and was to be tried once more.
    """

    again: int = 0

    def task_id(self, batch: uuid.UUID, attempt: int, lost: int = 0) -> str:
        """Always the same for the same poster and attempt, as long as its answer was not lost once more."""
        asked = hashlib.sha256(json.dumps(self.body, sort_keys=True).encode()).hexdigest()
        return str(uuid.uuid5(batch, f"{attempt}:{self.again}:{self.custom_id}:{asked}{':anew' * lost}"))


@dataclass(frozen=True, slots=True)
class Posters:
    """The posters of a list, and what is asked of them.

    Attributes:
        items: as they came.
        names: what each is called: its id, its place where it has none, both where another has it too.
        folder: where the list is; pictures without a scheme are files beside it.
        language: ISO 639 code of the answers.
        again: name → times it has failed and was to be tried once more.
    """

    items: list[Any]
    names: list[str]
    folder: Path
    language: str
    again: dict[str, int] = field(default_factory=dict)

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
        try:
            clean_json(item)
        except ValueError as error:
            raise ItemProblem(number, "invalid_text", f"The item {error}.") from None
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
        body = {"image": self._image(number, address), **told, "language": self.language}
        again = self.again.get(poster_id, 0)
        return PosterLine(number, poster_id, TASK_URL + TASK, body, len(json.dumps(body)), again)

    def _image(self, number: int, address: str) -> Json:
        if address.startswith("data:"):
            return {"data": address}
        try:
            scheme = urlsplit(address).scheme
        except ValueError as error:
            raise ItemProblem(
                number, "invalid_image_url", f"`imageUrl` is no address: {error}.", "imageUrl"
            ) from None
        return {"url": address} if scheme else {"path": str(self.folder / address)}


def _id_of(item: object) -> str:
    """The id of an item; "" where it has none."""
    found = item.get("id") if isinstance(item, dict) else None
    if isinstance(found, bool) or not isinstance(found, str | int):
        return ""
    try:
        return str(clean_text(str(found))).strip()
    except ValueError:
        return ""


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
