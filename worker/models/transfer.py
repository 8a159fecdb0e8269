"""One file from the Hub to disk: resumed after any interruption, and only good once its checksum is."""

import errno
import os
import time
from pathlib import Path
from typing import BinaryIO, Protocol

from worker.errors import ModelError
from worker.models.content import BLOCK_BYTES, Digest, RemoteFile, matches
from worker.models.hub import Hub, HubUnavailable
from worker.models.words import HEAD_BYTES, recognise

#: Requests in a row without a single byte until a download is given up.
_ATTEMPTS = 6


class Report(Protocol):
    """Who is told how a pull goes."""

    def say(self, text: str) -> None:
        """One sentence."""

    def begin(self, total_bytes: int) -> None:
        """A transfer of so many bytes starts."""

    def file(self, name: str) -> None:
        """The file that is worked on now."""

    def skip(self, count_bytes: int) -> None:
        """So many bytes were there already; negative where they have to come again."""

    def advance(self, count_bytes: int) -> None:
        """So many bytes came."""

    def end(self) -> None:
        """The transfer is over, well or not."""


def download(
    hub: Hub, repo: str, commit: str, file: RemoteFile, part: Path, report: Report, cached: Path | None = None
) -> None:
    """Bring the whole file to `part`, going on with what is already there.

    Args:
        hub: where from.
        repo: repository.
        commit: its commit.
        file: the file.
        part: where to; on return it is complete and verified.
        report: told of every byte, those already there included.
        cached: a copy on this machine to take instead, if it turns out to be right.

    Raises:
        HubUnavailable: given up; `part` stays for the next time.
        ModelError: wrong checksum (`part` is removed), disk full, or the Hub refuses.
    """
    try:
        if cached is not None and not part.exists() and matches(cached, file):
            _copy(cached, part, report)
            return
        with part.open("ab+") as stream:
            _fill(hub, repo, commit, file, stream, report)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ModelError(f"The disk is full: {part.parent} has no room for {file.name}.") from error
        raise ModelError(f"{part} cannot be written: {error.strerror or error}.") from error


def _copy(source: Path, part: Path, report: Report) -> None:
    """Under another name first: half a copy must not be taken for half a download."""
    copy = part.with_suffix(".copy")
    with source.open("rb") as stream, copy.open("wb") as target:
        while block := stream.read(BLOCK_BYTES):
            target.write(block)
            report.skip(len(block))
        target.flush()
        os.fsync(target.fileno())
    copy.replace(part)


def _fill(hub: Hub, repo: str, commit: str, file: RemoteFile, stream: BinaryIO, report: Report) -> None:
    digest, at = _resume(stream, file)
    report.skip(at)
    failures = 0
    while at < file.size_bytes:
        before = at
        try:
            with hub.read(repo, commit, file, at) as (start, chunks):
                if start != at:
                    stream.truncate(0)
                    report.skip(-at)
                    digest, at, before = Digest(file), 0, 0
                for chunk in chunks:
                    useful = chunk[: file.size_bytes - at]
                    stream.write(useful)
                    digest.update(useful)
                    at += len(useful)
                    report.advance(len(useful))
                    if len(useful) < len(chunk):
                        break
            problem = HubUnavailable(
                f"{hub.endpoint} ends {file.name} after {at} of {file.size_bytes} bytes."
            )
        except HubUnavailable as interruption:
            problem = interruption
        if at >= file.size_bytes:
            break
        failures = 1 if at > before else failures + 1
        if failures == _ATTEMPTS:
            raise HubUnavailable(f"{problem} What is there is kept: the next pull goes on from {at} bytes.")
        time.sleep(max(hub.retry_delay_s * 2 ** (failures - 1), problem.retry_after_s))
    if digest.hex() != file.checksum:
        seen = _what_came(stream)
        Path(stream.name).unlink()
        raise ModelError(
            f"{file.name} arrived damaged and was removed: its checksum is {digest.hex()} where the Hub says "
            f"{file.checksum}.{seen} Pull it again; if that does not help, a proxy or mirror changes it."
        )


def _what_came(stream: BinaryIO) -> str:
    stream.seek(0)
    seen = recognise(stream.read(HEAD_BYTES))
    return f" What came {seen}." if seen and ("HTML" in seen or "pointer" in seen) else ""


def _resume(stream: BinaryIO, file: RemoteFile) -> tuple[Digest, int]:
    """The digest and length of what is already there; too much of it is thrown away."""
    digest, at = Digest(file), 0
    stream.seek(0)
    while block := stream.read(BLOCK_BYTES):
        digest.update(block)
        at += len(block)
    if at > file.size_bytes:
        stream.truncate(0)
        return Digest(file), 0
    return digest, at
