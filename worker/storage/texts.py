"""Texts by value, by path or by content hash, with limits.

A message in Redis stays small; a long text is a file in an allowed folder or a blob named by the sha256 of
its bytes.
"""

import asyncio
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from worker.errors import ForbiddenInput, InputTooLarge, InputUnavailable, InvalidTask


@dataclass(frozen=True, slots=True)
class TextStore:
    """Reads and keeps texts.

    Attributes:
        blob_dir: folder of blobs; made when the first one is put.
        input_dirs: folders a path may be in.
        max_bytes: most bytes of one text.
    """

    blob_dir: Path
    input_dirs: tuple[Path, ...]
    max_bytes: int

    def check_size(self, size_bytes: int) -> None:
        """Refuse what is over the limit.

        Raises:
            InputTooLarge: naming both sizes.
        """
        if size_bytes > self.max_bytes:
            raise InputTooLarge(
                f"`text` has {size_bytes:,} bytes, the limit is {self.max_bytes:,}.",
                "Split it, or raise MAX_TEXT_BYTES on the worker.",
            )

    def put(self, text: str) -> str:
        """Keep a text and return its reference, `sha256:<hex>`; the same text is kept once."""
        data = text.encode()
        self.check_size(len(data))
        digest = hashlib.sha256(data).hexdigest()
        target = self._blob(digest)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(target)
        return f"sha256:{digest}"

    async def read_path(self, path: str) -> str:
        """The text of a file in one of the allowed folders; symbolic links are followed before checking.

        Raises:
            ForbiddenInput: the file is outside the allowed folders.
            InputUnavailable: it does not exist, is not a file or is not UTF-8.
            InputTooLarge: it is over the limit.
        """
        return await asyncio.to_thread(self._read_path, path)

    async def read_blob(self, reference: str) -> str:
        """The text of a blob; errors as for `read_path`."""
        target = self._blob(reference.removeprefix("sha256:"))
        return await asyncio.to_thread(self._read, target, reference)

    def _blob(self, digest: str) -> Path:
        return self.blob_dir / digest[:2] / digest

    def _read_path(self, path: str) -> str:
        if not self.input_dirs:
            raise ForbiddenInput(f"`path` {path!r}: no folder is open to tasks.", "Set INPUT_DIRS.")
        resolved = Path(path).resolve()
        if not any(resolved.is_relative_to(folder.resolve()) for folder in self.input_dirs):
            allowed = ", ".join(str(folder) for folder in self.input_dirs)
            raise ForbiddenInput(f"`path` {path!r} is outside the allowed folders ({allowed}).")
        return self._read(resolved, path)

    def _read(self, file: Path, name: str) -> str:
        try:
            with file.open("rb") as stream:
                self.check_size(os.fstat(stream.fileno()).st_size)
                text = stream.read(self.max_bytes + 1).decode()
        except OSError as error:
            raise InputUnavailable(f"{name!r} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError as error:
            raise InputUnavailable(f"{name!r} is not UTF-8 text (byte {error.start}).") from None
        if "\0" in text:
            raise InvalidTask(f"{name!r} contains NUL bytes; it is not text.")
        return text
