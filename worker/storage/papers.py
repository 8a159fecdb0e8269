"""What was read of documents, as files: Markdown and JSON in a folder, and a copy in S3."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from worker.contracts.base import Json
from worker.errors import LocalError
from worker.storage.blobs import Blobs
from worker.storage.files import write_whole

#: Seconds an upload is tried for: a server that is started again is there by then. Seconds between, at most.
PATIENCE_S, _MOST_PAUSE_S = 120.0, 5.0
#: Bytes of the JSON of one document, at most.
_MOST_BYTES = 256 * 1024 * 1024

#: Bytes of the name of a result without its ending: file systems take 255, with that of a draft.
_MOST_STEM_BYTES = 180


@dataclass(frozen=True, slots=True)
class Written:
    """Where the two files are."""

    markdown: str
    json: str


def contents(result: Json, blobs: Blobs) -> tuple[bytes, bytes]:
    """Markdown and JSON of a result of `document.ocr`. Blocking.

    Raises:
        InputUnavailable: they are not in the blob store.
    """
    said = result["markdown"]
    markdown = said.encode() if isinstance(said, str) else blobs.read(said["blob"], _MOST_BYTES)
    return markdown, blobs.read(result["json"]["blob"], _MOST_BYTES)


def stem_of(name: str) -> str:
    """The name of a file as that of its results: no folders, no ending, nothing unusual."""
    stem = re.sub(r"[^\w.-]+", "_", Path(name.replace("\\", "/")).stem).strip("._")
    return stem.encode()[:_MOST_STEM_BYTES].decode(errors="ignore") or "document"


def write(folder: Path, stem: str, found: tuple[bytes, bytes]) -> Written:
    """Write both files, whole or not at all. Blocking.

    Raises:
        LocalError: they cannot be written.
    """
    paths = folder / f"{stem}.md", folder / f"{stem}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in zip(paths, found, strict=True):
            write_whole(path, data)
    except OSError as error:
        raise LocalError(f"{folder} cannot be written to: {error.strerror}.") from None
    return Written(*map(str, paths))


def upload(
    where: str, stem: str, found: tuple[bytes, bytes], patience_s: float = PATIENCE_S,
    on_trouble: Callable[[str], None] = lambda _: None,
) -> Written:  # fmt: skip
    """Put both files under a URL; tried again until the server is back. Blocking.

    Args:
        where: `s3://bucket/prefix`.
        stem: of both files.
        found: Markdown and JSON.
        patience_s: seconds after which it is given up.
        on_trouble: told once why it does not work at first.

    Raises:
        LocalError: it did not work in all that time, or cannot.
    """
    try:
        files: Any
        files, root = fsspec.core.url_to_fs(where)
    except (ImportError, ValueError) as error:
        raise LocalError(f"{where}: {error}. For s3://: pip install 'kc-worker[s3]'.") from None
    targets = f"{root}/{stem}.md", f"{root}/{stem}.json"
    until, pause_s, told = time.monotonic() + patience_s, 0.2, False
    for target, data in zip(targets, found, strict=True):
        while True:
            try:
                files.pipe_file(target, data)
                break
            except Exception as error:  # noqa: BLE001 - each file system has errors of its own
                reason = f"{where} does not take {stem}: {error or type(error).__name__}"
                if time.monotonic() >= until or isinstance(error, PermissionError):
                    raise LocalError(f"{reason}.") from None
                if not told:
                    on_trouble(f"{reason}; trying again for {patience_s:g} s.")
                    told = True
                time.sleep(pause_s)
                pause_s = min(_MOST_PAUSE_S, 2 * pause_s)
    base = where.rstrip("/")
    return Written(f"{base}/{stem}.md", f"{base}/{stem}.json")
