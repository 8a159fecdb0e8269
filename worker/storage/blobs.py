"""Bytes by the sha256 of themselves: in a folder, or wherever fsspec has a file system for (`s3://bucket/prefix`)."""

import hashlib
import secrets
import time
from collections.abc import Container
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec

from worker.errors import InputTooLarge, InputUnavailable, LocalError

_LOCAL = ("file", "local")


class Blobs:
    """Blocking: for a thread.

    Args:
        where: a folder, made when the first blob is put, or a URL.

    Raises:
        LocalError: no file system is installed for that kind of URL.
    """

    def __init__(self, where: str | Path) -> None:
        try:
            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(str(where))
        except (ImportError, ValueError) as error:
            raise LocalError(f"BLOB_DIR={where}: {error}. For s3://: pip install 'kc-worker[s3]'.") from None
        self._is_local = any(name in _LOCAL for name in self._files.protocol)
        # What is away raises errors of its own library, and may be back.
        self._trouble: type[Exception] = OSError if self._is_local else Exception

    def put(self, data: bytes) -> str:
        """Keep bytes and return their reference, `sha256:<hex>`; the same ones are kept once, and new again.

        Raises:
            InputUnavailable: the store does not take them now; retryable where it is another machine.
        """
        digest = hashlib.sha256(data).hexdigest()
        target = self._path(digest)
        try:
            if self._is_local and self._files.exists(target):
                self._files.touch(target, truncate=False)
            else:
                self._write(target, data)
        except self._trouble as error:
            raise self._away("The blob store does not take an input", error) from None
        return f"sha256:{digest}"

    def keep(self, key: str, data: bytes) -> None:
        """Keep what was worked out from something, under a hash (hex) of all that it depends on.

        Nothing refers to it: it is swept by its age alone, and then worked out again.

        Raises:
            InputUnavailable: the store does not take it now.
        """
        try:
            self._write(self._kept(key), hashlib.sha256(data).digest() + data)
        except self._trouble as error:
            raise self._away("The blob store does not take a result", error) from None

    def kept(self, key: str) -> bytes | None:
        """What was kept under a hash; None where there is nothing, or nothing whole."""
        try:
            found: bytes = self._files.cat_file(self._kept(key))
        except self._trouble:
            return None
        digest, data = found[:32], found[32:]
        return data if hashlib.sha256(data).digest() == digest else None

    def read(self, reference: str, most_bytes: int) -> bytes:
        """The bytes of a reference.

        Raises:
            InputTooLarge: there are more than `most_bytes`.
            InputUnavailable: there are none, they are damaged, or (retryable) the store is away.
        """
        digest = reference.removeprefix("sha256:")
        path = self._path(digest)
        try:
            size = int(self._files.size(path) or 0)
            data: bytes | None = self._files.cat_file(path) if size <= most_bytes else None
        except FileNotFoundError:
            raise InputUnavailable(f"{reference!r} cannot be read: there is no such blob.") from None
        except self._trouble as error:
            raise self._away(f"{reference!r} cannot be read", error) from None
        if data is None:
            raise InputTooLarge(f"{reference} has {size:,} bytes, the limit is {most_bytes:,}.")
        if hashlib.sha256(data).hexdigest() != digest:
            raise InputUnavailable(f"{reference} is damaged: its bytes have another hash.", "Send it again.")
        return data

    def sweep(self, older_than_s: float, kept: Container[str], *, dry_run: bool = False) -> tuple[int, int]:
        """Remove blobs that were last put so long ago and that nobody refers to.

        Args:
            older_than_s: seconds.
            kept: references that are needed.
            dry_run: only count them.

        Returns:
            How many, and their bytes.
        """
        removed = size = 0
        limit = time.time() - older_than_s
        found: dict[str, dict[str, Any]] = self._files.find(self._root, detail=True)
        for path, about in found.items():
            changed: Any = about.get("mtime") or about.get("LastModified") or about.get("created") or 0
            at = changed.timestamp() if isinstance(changed, datetime) else float(changed)
            digest = path.rpartition("/")[2].partition("-")[0]
            if at < limit and f"sha256:{digest}" not in kept:
                if not dry_run:
                    self._files.rm_file(path)
                removed, size = removed + 1, size + int(about.get("size") or 0)
        return removed, size

    def _away(self, what: str, error: Exception) -> InputUnavailable:
        hint = None if self._is_local else "Try again when it is back."
        return InputUnavailable(f"{what}: {error}.", hint, retryable=not self._is_local)

    def _write(self, target: str, data: bytes) -> None:
        """Whole or not at all."""
        if not self._is_local:
            self._files.pipe_file(target, data)
            return
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        draft = f"{target}-{secrets.token_hex(4)}"
        self._files.pipe_file(draft, data)
        self._files.mv(draft, target)

    def _kept(self, key: str) -> str:
        return f"{self._path(key)}-kept"

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"
