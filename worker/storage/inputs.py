"""What tasks work on, however it arrives: in base64, by URL, by path or by content hash; within limits."""

import asyncio
import base64
import binascii
import os
from dataclasses import dataclass
from pathlib import Path

from worker.contracts.base import Input
from worker.errors import ForbiddenInput, InputTooLarge, InputUnavailable, InvalidTask
from worker.storage.blobs import Blobs
from worker.storage.fetching import Fetcher


@dataclass(frozen=True, slots=True)
class Inputs:
    """Reads inputs.

    Attributes:
        blobs: those by content hash.
        folders: those a path may be in.
        fetcher: of those by URL.
        most_bytes: of one input, where its reader allows no fewer.
    """

    blobs: Blobs
    folders: tuple[Path, ...]
    fetcher: Fetcher
    most_bytes: int = 32 * 1024 * 1024

    async def read(self, given: Input, field: str, most_bytes: int | None = None) -> bytes:
        """The bytes of an input.

        Args:
            given: by value or by reference.
            field: of the task, for messages.
            most_bytes: it may have; None: the limit of all.

        Raises:
            InvalidTask: it is not base64.
            InputTooLarge, InputUnavailable, ForbiddenInput: it is too long, not there, or not to be opened.
        """
        most_bytes = self.most_bytes if most_bytes is None else most_bytes
        if given.url is not None:
            return await self.fetcher.fetch(given.url, most_bytes)
        if given.path is not None:
            return await asyncio.to_thread(_read_path, given.path, self.folders, most_bytes)
        if given.blob is not None:
            return await asyncio.to_thread(self.blobs.read, given.blob, most_bytes)
        return _decoded(given.data or "", field, most_bytes)


def _decoded(data: str, field: str, most_bytes: int) -> bytes:
    if data.startswith("data:"):
        data = data.partition(",")[2]
    if len(data) * 3 // 4 > most_bytes:
        raise InputTooLarge(f"`{field}.data` has more than {most_bytes:,} bytes.")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidTask(f"`{field}.data` is not base64: {error}.") from None


def _read_path(path: str, folders: tuple[Path, ...], most_bytes: int) -> bytes:
    """The bytes of a file in one of the allowed folders; links are followed before checking. Blocking.

    Raises:
        ForbiddenInput: the file is outside the allowed folders.
        InputUnavailable: it does not exist, or is not a file.
        InputTooLarge: it is over the limit.
    """
    if not folders:
        raise ForbiddenInput(f"`path` {path!r}: no folder is open to tasks.", "Set INPUT_DIRS.")
    resolved = Path(path).resolve()
    if not any(resolved.is_relative_to(folder.resolve()) for folder in folders):
        allowed = ", ".join(str(folder) for folder in folders)
        raise ForbiddenInput(f"`path` {path!r} is outside the allowed folders ({allowed}).")
    try:
        if resolved.exists() and not resolved.is_file():  # opening a pipe would wait for ever
            raise InputUnavailable(f"{path!r} is not a file.")
        with resolved.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most_bytes:
                raise InputTooLarge(f"{path!r} has {size:,} bytes, the limit is {most_bytes:,}.")
            return file.read(most_bytes + 1)
    except OSError as error:
        raise InputUnavailable(f"{path!r} cannot be read: {error.strerror}.") from None
