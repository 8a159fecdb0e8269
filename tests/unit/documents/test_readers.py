"""Processes that read pages: what happens to one of them is what happens to a page."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests import papers
from worker.documents.child import _GRACE_S
from worker.documents.document import opened, warm_up
from worker.documents.ocr import SAMPLE, models
from worker.documents.readers import PageFailed, Readers, _Reader
from worker.errors import DeadlineExceeded, InputTooLarge, InputUnavailable

PAGES = papers.pdf([papers.said(60, 80, f"Page {number}") for number in range(1, 4)])


@pytest.fixture
async def own() -> AsyncIterator[Readers]:
    """Readers of this test alone."""
    readers = Readers(1, 1, 4 * 2**30)
    yield readers
    readers.close()


async def test_what_kills_a_reader_costs_a_page(own: Readers) -> None:
    async with opened(own, PAGES, "`document`", 50_000_000) as document:
        (pid,) = own.pids
        os.kill(pid, signal.SIGSTOP)
        reading = asyncio.create_task(document.read(1, "text", 200))
        await asyncio.sleep(0.2)
        assert not reading.done()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(PageFailed, match="was ended by SIGKILL") as caught:
            await reading
        assert caught.value.again
        assert (await document.read(2, "text", 200))["markdown"] == "Page 2"
        os.kill(own.pids[0], signal.SIGKILL)
        await asyncio.to_thread(_wait_until, lambda: not own.pids)
        assert (await document.read(3, "text", 200))["markdown"] == "Page 3", (
            "who had nothing to do costs nothing"
        )


async def test_who_is_cancelled_leaves_nothing_running(own: Readers) -> None:
    async with opened(own, papers.scanned(PAGES), "`document`", 50_000_000) as document:
        (quick,) = own.pids
        reading = asyncio.create_task(document.read(1, "ocr", 200))
        await asyncio.to_thread(_wait_until, lambda: len(own.pids) == 2)
        slow = next(pid for pid in own.pids if pid != quick)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert not psutil.pid_exists(slow)
        assert own.pids == [quick]
        assert (await document.read(1, "text", 200))["markdown"] == ""


async def test_what_needs_no_ocr_does_not_wait_for_what_does(own: Readers) -> None:
    async with (
        opened(own, papers.scanned(PAGES), "`document`", 50_000_000) as scan,
        opened(own, PAGES, "`document`", 50_000_000) as text,
    ):
        reading = asyncio.create_task(scan.read(1, "auto", 200))
        assert (await text.read(3, "auto", 200))["markdown"] == "Page 3"
        assert not reading.done()
        assert (await reading)["source"] == "ocr"


async def test_a_page_that_takes_too_long_is_given_up(own: Readers) -> None:
    async with opened(own, papers.scanned(PAGES), "`document`", 50_000_000) as document:
        with pytest.raises(PageFailed, match=r"within 0\.05 s") as caught:
            await own.ask("scan", 0.05, {**_file(document), "page": 1, "dpi": 200})
        assert not caught.value.again, "it would take as long again"
        assert len(own.pids) == 1


def test_a_reader_ends_itself_where_a_library_does_not_come_back() -> None:
    """The timer's signal ends it in C code too, where no thread of Python gets a turn."""
    reader = _Reader(("1", str(4 * 2**30)))
    with pytest.raises(PageFailed, match="was ended by SIGALRM"):
        reader.ask({"op": "warm", "limit_s": 0.05 - _GRACE_S})
    assert not reader.is_alive


async def test_who_is_cancelled_while_a_document_is_written_leaves_no_file(
    own: Readers, tmp_path: Path
) -> None:
    async def read() -> None:
        async with opened(own, bytes(64 * 2**20), "`document`", 50_000_000):
            pytest.fail("it was opened")

    reading = asyncio.create_task(read())
    await asyncio.to_thread(_wait_until, lambda: list(tmp_path.glob("kc-document-*")))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize("where", ["full", "missing"])
async def test_a_full_disk_is_a_reason_to_try_again(
    own: Readers, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if where == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    else:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    try:
        with pytest.raises(InputUnavailable, match=r"`document` cannot be kept in .* set TMPDIR") as caught:
            async with opened(own, bytes(2**21), "`document`", 50_000_000):
                pytest.fail("it was opened")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.retryable


async def test_a_page_that_takes_long_holds_up_nobody(own: Readers) -> None:
    async with opened(own, PAGES, "`document`", 50_000_000) as document:
        (slow,) = own.pids
        os.kill(slow, signal.SIGSTOP)
        reading = asyncio.create_task(document.read(1, "text", 200))
        await asyncio.sleep(0)
        assert (await document.read(2, "text", 200))["markdown"] == "Page 2"
        assert not reading.done()
        os.kill(slow, signal.SIGCONT)
        assert (await reading)["markdown"] == "Page 1"


async def test_nobody_waits_longer_than_the_deadline(own: Readers) -> None:
    """For a page, and for the turn of one."""
    async with opened(own, papers.scanned(PAGES), "`document`", 50_000_000) as document:
        first = asyncio.create_task(document.read(1, "ocr", 200))
        await asyncio.to_thread(_wait_until, lambda: len(own.pids) == 2)
        slow = own.pools[1].pids[0]
        os.kill(slow, signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded, match=r"options\.deadline_s passed while a page was read"):
            await replace(document, deadline=time.monotonic() + 0.1).read(2, "ocr", 200)
        assert not first.done()
        os.kill(slow, signal.SIGCONT)
        assert (await first)["lines"]


async def test_a_page_that_wants_too_much_memory_fails_alone() -> None:
    """What is over the limit of pixels fits in memory; here that is smaller than the page."""
    tight = Readers(1, 1, 600 * 2**20)
    try:
        async with opened(tight, PAGES, "`document`", 10**9) as document:
            with pytest.raises(PageFailed) as caught:
                await document.picture(1, 2000, 30_000)
            assert caught.value.again, "less may be open next time"
            assert (await document.read(1, "text", 200))["markdown"] == "Page 1"
    finally:
        tight.close()


def test_readers_end_with_who_started_them(tmp_path: Path) -> None:
    """Whatever ends it: kill -9 too."""
    program = """
        import asyncio
        from worker.documents.readers import Readers
        async def main():
            readers = Readers(1, 1, 2**32)
            await readers.ask("look", 60, {"path": __import__("sys").argv[1], "name": "x", "most_pixels": 10})
            print(readers.pids[0], flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
    """
    document = tmp_path / "a.pdf"
    document.write_bytes(PAGES)
    command = [sys.executable, "-c", textwrap.dedent(program), str(document)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        reader = psutil.Process(int(starter.stdout.readline()))
        starter.kill()
    reader.wait(timeout=30)


async def test_a_reader_knows_no_secrets(own: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_API_KEY", "hunter2")
    monkeypatch.setenv("REDIS_PASSWORD", "hunter2")
    async with opened(own, PAGES, "`document`", 50_000_000):
        environment = psutil.Process(own.pids[0]).environ()
        assert "PATH" in environment
        assert "hunter2" not in environment.values()


def test_the_models_are_here_and_nothing_is_fetched() -> None:
    assert all(models().values())
    program = """
        import sys
        def refuse(event, arguments):
            if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
                raise RuntimeError(f"it wants the network: {event} {arguments}")
        sys.addaudithook(refuse)
        from worker.documents.ocr import Ocr, sample
        print(" ".join(mark.text for mark in Ocr(1).read(sample()).marks))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == SAMPLE, done.stderr


async def test_warming_up_reads_a_line(readers: Readers) -> None:
    assert SAMPLE in await warm_up(readers)


async def test_many_pages_take_no_more_memory_than_few(own: Readers) -> None:
    """Ours and the reader's, for text and for pictures of pages; the long form is in tests/integration."""
    pages = [
        papers.said(60, 80, f"Page {number}") + papers.lines(60, 120, papers.PROSE * 6)
        for number in range(200)
    ]
    async with opened(own, papers.pdf(pages), "`document`", 50_000_000) as document:
        assert document.count == 200

        async def some(numbers: range) -> int:
            for number in numbers:
                assert f"Page {number}" in (await document.read(number + 1, "text", 200))["markdown"]
                await document.picture(number + 1, 100, 1000)
            return psutil.Process(own.pids[0]).memory_info().rss

        after_few = await some(range(20))
        assert await some(range(20, 200)) < after_few * 1.2 + 10 * 2**20


UNREADABLE = {
    "encrypted": (
        papers.pdf([b""], encrypted=True),
        InputUnavailable,
        "encrypted and wants a password. Remove",
    ),
    "truncated": (PAGES[:300], InputUnavailable, "truncated or damaged. Send the whole file"),
    "no pages": (papers.pdf([]), InputUnavailable, "a PDF without pages"),
    "no document": (b"PK\x03\x04 etc", InputUnavailable, "a ZIP archive, neither a PDF nor a picture"),
    "a web page": (b"<!doctype html><p>", InputUnavailable, "a web page"),
    "empty": (b"", InputUnavailable, "is empty"),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_cannot_be_opened_is_said_in_words(readers: Readers, name: str) -> None:
    data, kind, says = UNREADABLE[name]
    with pytest.raises(kind, match=says) as caught:
        async with opened(readers, data, "`document`", 50_000_000):
            pytest.fail("it was opened")
    assert str(caught.value).startswith("`document` is ")


async def test_pictures_that_were_looked_at_are_forgotten(own: Readers) -> None:
    picture = papers.saved("TIFF", *[Image.new("RGB", (5000, 4000), colour) for colour in ("red", "blue")])
    rss = []
    for _ in range(6):
        async with opened(own, picture, "`document`", 50_000_000) as document:
            sheet = await document.picture(2, 72, 100)
            assert (sheet.size, sheet.unit) == ((5000, 4000), "px")
        rss.append(psutil.Process(own.pids[0]).memory_info().rss)
    assert max(rss) < rss[0] + 40 * 2**20, "one picture has 60 MB"


async def test_pictures_and_pages_of_20000_pixels_are_refused(readers: Readers) -> None:
    with pytest.raises(
        InputTooLarge, match=r"20,000 x 20,000 pixels, the limit is 50,000,000\. Make it smaller"
    ):
        async with opened(
            readers, papers.saved("PNG", Image.new("1", (20_000, 20_000))), "`document`", 50_000_000
        ):
            pytest.fail("it was opened")
    wide = papers.pdf([papers.said(60, 80, "A wall chart")], size=(7200, 7200))
    async with opened(readers, wide, "`document`", 50_000_000) as document:
        assert "A wall chart" in (await document.read(1, "auto", 200))["markdown"], "text needs no pixels"
        with pytest.raises(InputTooLarge, match=r"Page 1 .* 20,000 x 20,000 .* Ask for a lower `dpi`"):
            await document.read(1, "ocr", 200)
        assert (await document.picture(1, 200, 1000)).pixels == (1000, 1000)


def _wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


def _file(document) -> dict[str, object]:
    return {"path": str(document.path), "name": "`document`", "most_pixels": 50_000_000}
