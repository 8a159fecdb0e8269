"""A document that is being read, page by page, by processes of their own."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.documents.readers import Readers
from worker.documents.wire import Json

#: Seconds a reader has to open a file, and for one page, its start included.
LOOK_TIMEOUT_S, PAGE_TIMEOUT_S = 60.0, 120.0


@dataclass(frozen=True, slots=True)
class Document:
    """A PDF, or a picture with one page or more. Pages count from 1.

    Attributes:
        readers: who reads it.
        path: where it lies while it is read.
        name: in messages.
        most_pixels: a page may have when it is looked at.
        count: pages.
        kind: a PDF is measured in points, a picture in pixels.
    """

    readers: Readers
    path: Path
    name: str
    most_pixels: int
    count: int
    kind: Literal["pdf", "picture"]

    async def picture(self, page: int, dpi: float, longest_side: int) -> tuple[bytes, int, int]:
        """A page as PNG, at most `dpi` where it is measured in points, and no longer than `longest_side`.

        Returns:
            PNG, width and height in pixels.

        Raises:
            InputTooLarge, InputUnavailable: it has too many pixels, or is broken.
            PageFailed: it could not be looked at.
        """
        said, data = await self._ask("render", page=page, dpi=dpi, longest_side=longest_side)
        return data, int(said["width"]), int(said["height"])

    async def _ask(self, op: str, **arguments: object) -> tuple[Json, bytes]:
        return await self.readers.ask(
            op, PAGE_TIMEOUT_S, {**_file(self.path, self.name, self.most_pixels), **arguments}
        )


@contextlib.asynccontextmanager
async def opened(readers: Readers, data: bytes, name: str, most_pixels: int) -> AsyncIterator[Document]:
    """A document, until this is left.

    Args:
        readers: who reads it.
        data: of a file.
        name: in messages, for example "`document`".
        most_pixels: a page may have when it is looked at.

    Raises:
        InputTooLarge, InputUnavailable: it is no document, broken, encrypted, empty, or has too many pixels.
        PageFailed: whoever opens it dies of it.
    """
    path = await asyncio.to_thread(_kept, data)
    try:
        said, _ = await readers.ask("look", LOOK_TIMEOUT_S, _file(path, name, most_pixels))
        yield Document(readers, path, name, most_pixels, said["pages"], said["kind"])
    finally:
        path.unlink(missing_ok=True)


def _file(path: Path, name: str, most_pixels: int) -> Json:
    return {"path": str(path), "name": name, "most_pixels": most_pixels}


def _kept(data: bytes) -> Path:
    handle, path = tempfile.mkstemp(prefix="kc-document-")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return Path(path)
