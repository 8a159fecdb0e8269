"""The lines of a batch: read, checked, and named in what is wrong with them.

{"custom_id": "row-7", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": […]}}
"""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worker.contracts.base import Json, clean_text, read_object
from worker.contracts.openai import arguments_of, task_of
from worker.errors import InvalidTask

#: Longest `custom_id`, characters.
MOST_ID_CHARS = 512
#: Read at once of what is too long and thrown away.
_PIECE_BYTES = 1 << 20
#: What is wrong with arguments begins with the name of the field.
_FIELD = re.compile(r"`([\w.]+)`")


@dataclass(frozen=True, slots=True)
class Line:
    """A request.

    Attributes:
        number: counts from 1, as editors count.
        custom_id: what its owner calls it.
        url: where it would go over HTTP; it says which task does it.
        body: what is asked there.
        size: about how many bytes it has.
    """

    number: int
    custom_id: str
    url: str
    body: Json
    size: int = 0

    @property
    def task(self) -> str:
        """Name of the task that does it."""
        return task_of(self.url)

    def arguments(self) -> Json:
        """Arguments of the task.

        Raises:
            Problem: they are wrong; it names every field that is.
        """
        try:
            arguments = arguments_of(self.url, self.body)
        except InvalidTask as error:
            raise self._wrong(str(error)) from None
        if (arguments.get("options") or {}).get("stream"):
            raise self._wrong("`stream` is not for batches: nobody listens.")
        return arguments

    def task_id(self, batch: uuid.UUID, attempt: int, lost: int = 0) -> str:
        """Always the same for the same line and attempt, as long as its answer was not lost once more."""
        return str(uuid.uuid5(batch, f"{attempt}:{self.number}{':anew' * lost}"))

    def _wrong(self, message: str) -> "Problem":
        named = _FIELD.match(message)
        where = f"body.{named.group(1)}" if named else "body"
        return Problem(self.number, "invalid_request", f"body: {message}", where, self.custom_id)


class Problem(Exception):
    """A line that is no request.

    Args:
        number: of the line; 0: of none.
        code: for programs.
        message: for people; it names the field.
        param: the field.
        custom_id: of the line, where that can be read.
    """

    def __init__(
        self, number: int, code: str, message: str, param: str | None = None, custom_id: str = ""
    ) -> None:
        super().__init__(message)
        self.number, self.code, self.message, self.param = number, code, message, param
        self.custom_id = custom_id

    @property
    def told(self) -> str:
        """With the line's number."""
        return f"line {self.number}: {self.message}" if self.number else self.message


class Source(Protocol):
    """Where lines come from; always the same ones in the same order."""

    def lines(self) -> Iterator[Line | Problem]:
        """All lines, one after the other; blank ones are left out.

        Raises:
            Problem: nothing can be read.
        """


@dataclass(frozen=True, slots=True)
class JsonLines:
    """A file as OpenAI's Batch API has it.

    Attributes:
        path: of the file.
        endpoint: the `url` every line has to have; "" for any.
        most_bytes: of one line.
    """

    path: Path
    endpoint: str = ""
    most_bytes: int = 256 * 1024

    def lines(self) -> Iterator[Line | Problem]:
        """All lines."""
        for number, raw in numbered(self.path, self.most_bytes):
            try:
                yield self._read(number, raw)
            except Problem as problem:
                yield problem

    def _read(self, number: int, raw: bytes | None) -> Line:
        found = object_in(number, raw, self.most_bytes)
        custom_id = found.get("custom_id")
        if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MOST_ID_CHARS:
            raise Problem(
                number,
                "invalid_custom_id",
                f"`custom_id` has to be a string of 1 to {MOST_ID_CHARS} characters.",
                "custom_id",
            )

        def wrong(code: str, field: str, message: str) -> Problem:
            return Problem(number, code, f"`{field}` {message}", field, custom_id)

        try:
            clean_text(custom_id)
        except ValueError as error:
            raise wrong("invalid_custom_id", "custom_id", f"{error}.") from None
        if unknown := found.keys() - {"custom_id", "method", "url", "body"}:
            field = min(unknown)
            raise wrong("unknown_field", field, "is not a field of a line: custom_id, method, url, body.")
        if found.get("method") != "POST":
            raise wrong("invalid_method", "method", "has to be POST.")
        url, body = found.get("url"), found.get("body")
        if not isinstance(url, str):
            raise wrong("invalid_url", "url", "has to be a string.")
        if self.endpoint and url != self.endpoint:
            raise wrong("mismatched_url", "url", f"is {url[:200]!r}, but the batch is for {self.endpoint}.")
        try:
            task_of(url)
        except InvalidTask as error:
            raise Problem(number, "invalid_url", str(error), "url", custom_id) from None
        if not isinstance(body, dict):
            raise wrong("invalid_body", "body", "has to be an object.")
        return Line(number, custom_id, url, body, len(raw or b""))


def numbered(path: Path, most_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file that are not blank, with their numbers; None for one that is too long."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(most_bytes + 2):
            number += 1
            too_long = len(raw.rstrip(b"\r\n")) > most_bytes
            while raw[-1:] != b"\n" and (more := file.readline(_PIECE_BYTES)):
                too_long, raw = True, more
            if too_long:
                yield number, None
            elif stripped := raw.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else raw.strip():
                yield number, stripped


def object_in(number: int, raw: bytes | None, most_bytes: int) -> Json:
    """The JSON object of a line.

    Raises:
        Problem: it has none.
    """
    if raw is None:
        raise Problem(number, "line_too_long", f"The line has more than {most_bytes:,} bytes.")
    try:
        return read_object(raw)
    except ValueError as error:
        raise Problem(number, "invalid_json_line", f"The line is not a JSON object: {error}.") from None
