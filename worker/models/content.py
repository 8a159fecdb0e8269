"""Which bytes a file has to have, and whether it has them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository.

    Attributes:
        name: path in the repository.
        size_bytes: its size; -1 where a mirror's listing does not say.
        sha256: hex digest of large (LFS) files; None for the others.
        git_sha1: git blob id of the others; None where the Hub does not say.
    """

    name: str
    size_bytes: int
    sha256: str | None
    git_sha1: str | None

    @property
    def checksum(self) -> str:
        """What identifies this content; empty where the Hub gives no checksum."""
        return self.sha256 or self.git_sha1 or ""


class Digest:
    """The checksum of bytes as they come: of the kind `file` has, or empty where it has none."""

    def __init__(self, file: RemoteFile) -> None:
        self._hash = None
        if file.sha256:
            self._hash = hashlib.sha256()
        elif file.git_sha1:
            # How git names contents, not a protection: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
            self._hash = hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._hash is not None:
            self._hash.update(data)

    def hex(self) -> str:
        """The checksum so far."""
        return self._hash.hexdigest() if self._hash is not None else ""


def matches(path: Path, file: RemoteFile) -> bool:
    """Whether the file at `path` is exactly `file`; by size alone where there is no checksum."""
    try:
        if path.stat().st_size != file.size_bytes:
            return False
        digest = Digest(file)
        with path.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return False
    return digest.hex() == file.checksum
