"""A document that is being read, page by page, by processes of their own."""

import asyncio
import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

from worker.documents.ocr import ENGINE, SAMPLE
from worker.documents.readers import PageFailed, Readers
from worker.documents.wire import PREFIX, Json
from worker.errors import DeadlineExceeded, InputUnavailable

#: Seconds a reader has to open a file, or for a page that it need not read by OCR, its start included; for a
#: page that it does; and to load its models.
QUICK_TIMEOUT_S, SCAN_TIMEOUT_S, WARM_TIMEOUT_S = 20.0, 120.0, 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A page as a picture.

    Attributes:
        png: the picture.
        pixels: its width and height.
        size: width and height of the page, in `unit`.
        unit: points, or pixels of the picture it was.
    """

    png: bytes
    pixels: tuple[int, int]
    size: tuple[float, float]
    unit: Literal["pt", "px"]


@dataclass(frozen=True, slots=True)
class Document:
    """A PDF, or a picture with one page or more. Pages count from 1.

    Attributes:
        readers: who reads it.
        path: where it lies while it is read.
        digest: sha256 of its bytes.
        name: in messages.
        most_pixels: a page may have when it is looked at.
        count: pages.
        kind: a PDF is measured in points, a picture in pixels.
        deadline: `time.monotonic()` after which nobody waits for a page any more.
    """

    readers: Readers
    path: Path
    digest: str
    name: str
    most_pixels: int
    count: int
    kind: Literal["pdf", "picture"]
    deadline: float | None = None

    async def picture(self, page: int, dpi: float, longest_side: int) -> Sheet:
        """A page as a picture, in `dpi` where it is measured in points, and no longer than `longest_side`.

        Raises:
            InputTooLarge, InputUnavailable: it has too many pixels, or is broken.
            PageFailed: it could not be looked at.
        """
        said, data = await self._ask("render", page=page, dpi=dpi, longest_side=longest_side)
        return Sheet(data, (said["width"], said["height"]), tuple(said["size"]), said["unit"])

    async def words(self) -> str:
        """What is written in a drawing, a line each; "" where it is none.

        Raises:
            PageFailed: it could not be looked at.
        """
        said, _ = await self._ask("words")
        found: str = said["words"]
        return found

    async def read(self, page: int, mode: Literal["auto", "text", "ocr"], dpi: float) -> Json:
        """A page read, as `reading` has it.

        Args:
            page: which.
            mode: by its text layer, by OCR, or by the first where that is real and by the other where not.
            dpi: dots an inch in which OCR looks at it, where it is measured in points.

        Raises:
            InputTooLarge, InputUnavailable: it has too many pixels, or is broken.
            PageFailed: it could not be read.
        """
        layer: Json | None = None
        if mode != "ocr" and self.kind == "pdf":
            said, _ = await self._ask("layer", page=page)
            layer = said["page"]
            if mode == "text" or said["real"]:
                return layer
        said, _ = await self._ask("scan", page=page, dpi=dpi)
        scan: Json = said["page"]
        return layer if layer and layer["lines"] and not scan["lines"] else scan

    async def _ask(self, op: str, **arguments: object) -> tuple[Json, bytes]:
        timeout_s = SCAN_TIMEOUT_S if op == "scan" else QUICK_TIMEOUT_S
        file = _file(self.path, self.name, self.most_pixels)
        return await _until(self.deadline, self.readers.ask(op, timeout_s, {**file, **arguments}))


@contextlib.asynccontextmanager
async def opened(
    readers: Readers, data: bytes, name: str, most_pixels: int, deadline: float | None = None
) -> AsyncIterator[Document]:
    """A document, until this is left.

    Args:
        readers: who reads it.
        data: of a file.
        name: in messages, for example "`document`".
        most_pixels: a page may have when it is looked at.
        deadline: `time.monotonic()` after which nobody waits for it any more.

    Raises:
        InputUnavailable: retryable where there is no room to keep it while it is read.
        DeadlineExceeded: that has passed, also while a page is read.
        InputTooLarge, InputUnavailable: it is no document, broken, encrypted, empty, or has too many pixels.
        PageFailed: whoever opens it dies of it.
    """
    handle, path = _made(name)
    try:
        digest = await asyncio.to_thread(_keep, os.fdopen(handle, "wb"), data, name)
        del data
        looking = readers.ask("look", QUICK_TIMEOUT_S, _file(path, name, most_pixels))
        said, _ = await _until(deadline, looking)
        yield Document(readers, path, digest, name, most_pixels, said["pages"], said["kind"], deadline)
    finally:
        path.unlink(missing_ok=True)


async def warm_up(readers: Readers) -> str:
    """Load OCR's models in one of the readers; what it then reads of a line that says `ocr.SAMPLE`.

    Raises:
        PageFailed: they are missing, or read something else.
    """
    said, _ = await readers.ask("warm", WARM_TIMEOUT_S, {})
    if said["read"] != SAMPLE:
        raise PageFailed(f"The OCR models read {said['read']!r} where {SAMPLE!r} is written.", again=False)
    return f"{ENGINE}: {SAMPLE}"


async def _until(deadline: float | None, asked: Awaitable[T]) -> T:
    """What is asked, waiting for its turn included.

    Raises:
        DeadlineExceeded: it was not there in time.
    """
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        async with asyncio.timeout(left):
            return await asked
    except TimeoutError:
        raise DeadlineExceeded("options.deadline_s passed while a page was read.") from None


def _file(path: Path, name: str, most_pixels: int) -> Json:
    return {"path": str(path), "name": name, "most_pixels": most_pixels}


def _made(name: str) -> tuple[int, Path]:
    """An empty file, open for writing."""
    try:
        handle, path = tempfile.mkstemp(prefix=PREFIX)
    except OSError as error:
        raise _no_room(name, error) from None
    return handle, Path(path)


def _keep(file: BinaryIO, data: bytes, name: str) -> str:
    """Write a file; the sha256 of what is in it."""
    try:
        with file:
            file.write(data)
    except OSError as error:
        raise _no_room(name, error) from None
    return hashlib.sha256(data).hexdigest()


def _no_room(name: str, error: OSError) -> InputUnavailable:
    return InputUnavailable(
        f"{name} cannot be kept in {tempfile.gettempdir()} while it is read: {error.strerror}.",
        "Make room there, or set TMPDIR on the worker.",
        retryable=True,
    )
