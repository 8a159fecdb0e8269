"""A process that reads pages: `python -m worker.documents.child THREADS MOST_MEMORY_BYTES`; see `wire`.

It ends when whoever started it does, whatever ends that, also in the middle of a page.
"""

import contextlib
import os
import queue
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from worker.documents.frames import Pictures, png
from worker.documents.kind import HEAD_BYTES, is_pdf
from worker.documents.ocr import Ocr, sample
from worker.documents.pdf import Pdf
from worker.documents.reading import layer_page, scanned_page
from worker.documents.svg import Svg, is_svg
from worker.documents.wire import PREFIX, Json, packed, receive, send
from worker.errors import InputTooLarge, InputUnavailable, TaskError

#: Seconds after which nobody reads a document any more that lies in the folder for temporary files.
_LEFT_S = 7 * 86400
#: Documents kept open: those of so many tasks take turns without being opened for each page.
_MOST_OPEN = 8
#: Seconds after its limit in which who asked ends it.
_GRACE_S = 1.0
#: Bytes of JSON one answer may have: twenty times those of a full page of a newspaper's small print.
MOST_ANSWER_BYTES = 1024 * 1024

Answer = tuple[Json, bytes]


class Child:
    """What can be asked.

    Args:
        threads: to compute with.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._ocr: Ocr | None = None
        self._open: OrderedDict[tuple[str, int], Pdf | Pictures] = OrderedDict()
        self.operations: dict[str, Callable[..., Answer]] = {
            "look": self.look, "render": self.render, "layer": self.layer,
            "scan": self.scan, "words": self.words, "warm": self.warm,
        }  # fmt: skip

    def look(self, path: str, name: str, most_pixels: int) -> Answer:
        """How many pages there are, and what of: `pdf` or `picture`."""
        sheets = self._sheets(path, name, most_pixels)
        return {"pages": sheets.count, "kind": sheets.kind}, b""

    def render(
        self, path: str, name: str, most_pixels: int, page: int, dpi: float, longest_side: int | None = None
    ) -> Answer:
        """A page as PNG, at `dpi` and no longer than `longest_side`."""
        sheets = self._sheets(path, name, most_pixels)
        picture = sheets.picture(page, dpi, longest_side)
        size = sheets.size(page)
        unit = "pt" if isinstance(sheets, Pdf) else "px"
        return {"width": picture.width, "height": picture.height, "size": size, "unit": unit}, png(picture)

    def layer(self, path: str, name: str, most_pixels: int, page: int) -> Answer:
        """A page of a PDF by its text layer, and whether that is real."""
        sheets = self._sheets(path, name, most_pixels)
        if isinstance(sheets, Pictures):
            raise InputUnavailable(f"{name} is a picture, and has no text layer.")
        found = sheets.text(page)
        return {"page": layer_page(found), "real": found.is_real}, b""

    def scan(self, path: str, name: str, most_pixels: int, page: int, dpi: float) -> Answer:
        """A page by OCR."""
        sheets = self._sheets(path, name, most_pixels)
        scan = self._engine().read(sheets.picture(page, dpi))
        return {"page": scanned_page(scan, dpi if isinstance(sheets, Pdf) else None)}, b""

    def words(self, path: str, name: str, most_pixels: int) -> Answer:
        """What is written in a drawing; nothing where it is none."""
        sheets = self._sheets(path, name, most_pixels)
        return {"words": sheets.words() if isinstance(sheets, Svg) else ""}, b""

    def warm(self) -> Answer:
        """Load OCR's models and read a line with them."""
        scan = self._engine().read(sample())
        return {"read": " ".join(mark.text for mark in scan.marks)}, b""

    def forget(self) -> None:
        """Close all documents."""
        while self._open:
            self._open.popitem()[1].close()

    def _engine(self) -> Ocr:
        if self._ocr is None:
            self._ocr = Ocr(self._threads)
        return self._ocr

    def _sheets(self, path: str, name: str, most_pixels: int) -> Pdf | Pictures:
        key = (path, most_pixels)
        if key not in self._open:
            self._open[key] = _opened(Path(path), name, most_pixels)
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        return self._open[key]


def _opened(path: Path, name: str, most_pixels: int) -> Pdf | Pictures:
    """The pages of a file, whatever it is.

    Raises:
        InputUnavailable: it is nothing that has pages, is broken, or wants a password.
        InputTooLarge: it is a picture with more pixels than it may have.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise InputUnavailable(f"{name} is empty.", "Send a PDF or a picture.")
    if is_pdf(head):
        return Pdf(path, name, most_pixels)
    return (Svg if is_svg(head) else Pictures)(path, name, most_pixels)


def main() -> None:
    """Answer until nobody asks any more."""
    threads, most_memory_bytes = map(int, sys.argv[1:])
    _limit(most_memory_bytes)
    _tidy()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    requests: queue.SimpleQueue[Json] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    child = Child(threads)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends it also where a library never comes back
    while True:
        request = requests.get()
        signal.setitimer(signal.ITIMER_REAL, request.pop("limit_s") + _GRACE_S)
        send(out, *_answer(child, request))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(child: Child, request: Json) -> tuple[bytes, bytes]:
    """An answer as it is sent."""
    said, data = _said(child, request)
    head = packed(said)
    if len(head) <= MOST_ANSWER_BYTES:
        return head, data
    error = InputTooLarge(
        f"It says {len(head):,} bytes of JSON, the limit of a page is {MOST_ANSWER_BYTES:,}.",
        "Read it with `mode` 'vlm', or leave it out.",
    )
    return packed(_failure(error)), b""


def _said(child: Child, request: Json) -> Answer:
    try:
        return child.operations[request.pop("op")](**request)
    except TaskError as error:
        return _failure(error), b""
    except ImportError as error:
        return {"error": "ImportError", "message": f"This worker cannot read scans: {error}."}, b""
    except MemoryError:
        child.forget()
        return {"error": "MemoryError", "message": "It takes more memory than a page may."}, b""
    except Exception as error:  # noqa: BLE001 - whatever a library makes of a page is about that page
        return {"error": type(error).__name__, "message": f"{type(error).__name__}: {error}"[:500]}, b""


def _failure(error: TaskError) -> Json:
    return {"error": type(error).__name__, "message": str(error), "hint": ""}  # it ends with its hint


def _listen(stream: BinaryIO, requests: queue.SimpleQueue[Json]) -> None:
    """Hand on what is asked; nobody waits for an answer any more when it ends."""
    with contextlib.suppress(EOFError):
        while True:
            requests.put(receive(stream)[0])
    os._exit(0)


def _limit(most_memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (most_memory_bytes, most_memory_bytes))
    with contextlib.suppress(OSError):  # where memory runs out, this goes and not the worker
        Path("/proc/self/oom_score_adj").write_text("500")


def _tidy() -> None:
    """Remove what workers left that were killed while they read."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - _LEFT_S:
                path.unlink()


if __name__ == "__main__":
    main()
