"""`document.ocr`: pages one by one, each kept, tried again and reported on its own."""

import asyncio
import base64
import json
import os
import signal
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest

from tests import papers
from tests.unit.tasks.conftest import Runner, ScriptedBackend
from worker.backends.base import Json, Readiness, State
from worker.contracts.document import OcrArguments
from worker.contracts.llm import ChatArguments
from worker.contracts.text import SummarizeArguments
from worker.documents.readers import Readers
from worker.errors import (
    BackendRejected,
    BackendUnavailable,
    DeadlineExceeded,
    InputTooLarge,
    InputUnavailable,
    InvalidTask,
    OutputRunaway,
)
from worker.tasks import document as task
from worker.tasks.base import feed

THREE = papers.pdf([papers.said(60, 80, f"Page {number}") for number in (1, 2, 3)])
THREE_WORDS = papers.said(60, 80, "Three small words")
NONE = ScriptedBackend([])


class Seeing(ScriptedBackend):
    """A model that is shown pages, and is ready."""

    def __init__(
        self, answers: Any, *, vision: bool | None = True, ready: bool = True, model: str = "eyes"
    ) -> None:
        super().__init__(answers)
        self._capabilities = replace(self._capabilities, vision=vision, model=model, context_length=8192)
        self._ready = State.READY if ready else State.DOWN

    async def probe(self) -> list[Readiness]:
        return [Readiness("scripted://", self._ready)]


def given(data: bytes) -> Json:
    return {"data": base64.b64encode(data).decode()}


async def whole(run_task: Runner, result: Json) -> Json:
    found: Json = json.loads(run_task.blobs.read(result["json"]["blob"], 10**8))
    return found


async def test_all_pages_in_their_order(run_task: Runner) -> None:
    result = await run_task(NONE, "document.ocr", document=given(THREE))
    assert result["markdown"] == "Page 1\n\nPage 2\n\nPage 3"
    assert result["pages_processed"] == 3
    assert result["pages"][1] == {
        "page": 2, "source": "text", "confidence": 1.0, "characters": 5, "width": 595.0, "height": 842.0,
        "unit": "pt", "attempts": 1, "cached": False,
    }  # fmt: skip
    assert run_task.progress == [(done, 3, "pages") for done in range(4)]
    found = await whole(run_task, result)
    assert [page["page"] for page in found["pages"]] == [1, 2, 3]
    assert found["pages"][2]["lines"][0]["text"] == "Page 3"
    assert found["kind"] == "pdf"
    assert (result["meta"]["model"], result["meta"]["attempts"]) == ("", 0)


async def test_what_ocr_read_says_so(run_task: Runner) -> None:
    result = await run_task(NONE, "document.ocr", document=given(papers.scanned(THREE)), pages=[2], dpi=72)
    assert result["pages"][0]["source"] == "ocr"
    assert result["meta"]["model"] == "PP-OCRv6_small"


@pytest.mark.parametrize(
    ("pages", "read"),
    [
        ("2", [2]),
        ("1-2", [1, 2]),
        ("3,1", [1, 3]),
        (" 2 - 3, 3", [2, 3]),
        ("2-", [2, 3]),
        ([3, 1], [1, 3]),
        ("1-3,1,2-3", [1, 2, 3]),
        ("3-1,2", [2]),
    ],
)
def test_pages_are_chosen(pages: Any, read: list[int]) -> None:
    arguments = OcrArguments.parse({"document": {"url": "-"}, "pages": pages})
    assert arguments.chosen(3, 10) == read


@pytest.mark.parametrize(
    ("pages", "says"),
    [
        ("4", "`pages`: there is no page 4; `document` has 3"),
        ("2-9", "there is no page 9"),
        ([0], "there is no page 0"),
        ("3-1", "names no page"),
    ],
)
async def test_pages_that_are_not_there(run_task: Runner, pages: Any, says: str) -> None:
    with pytest.raises(InvalidTask, match=says):
        await run_task(NONE, "document.ocr", document=given(THREE), pages=pages)


@pytest.mark.parametrize("pages", ["", "a", "1-2-3", "1;2", "-3", []])
def test_pages_that_nobody_understands(pages: Any) -> None:
    with pytest.raises(InvalidTask, match="`pages"):
        OcrArguments.parse({"document": {"url": "-"}, "pages": pages})


async def test_too_many_pages(run_task: Runner) -> None:
    run_task.readers.most_pages = 2
    with pytest.raises(InvalidTask, match=r"3 pages are to be read, the limit is 2\. Read some at a time"):
        await run_task(NONE, "document.ocr", document=given(THREE))
    assert (await run_task(NONE, "document.ocr", document=given(THREE), pages="2-3"))["pages_processed"] == 2


def test_pages_named_over_and_over_are_counted_once_and_not_listed() -> None:
    arguments = OcrArguments.parse({"document": {"url": "-"}, "pages": ",".join(["1-"] * 333)})
    tracemalloc.start()
    try:
        with pytest.raises(InvalidTask, match="1,000,000 pages are to be read"):
            arguments.chosen(1_000_000, 500)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()
    with pytest.raises(InvalidTask, match="pages"):
        OcrArguments.parse({"document": {"url": "-"}, "pages": "1," * 500 + "2"})


async def test_what_was_read_once_is_not_read_again(
    run_task: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await run_task(NONE, "document.ocr", document=given(THREE), pages="1-2")
    asked = _watched(monkeypatch)
    again = await run_task(NONE, "document.ocr", document=given(THREE))
    assert [page["cached"] for page in again["pages"]] == [True, True, False]
    assert asked == [3]
    assert again["markdown"].startswith(first["markdown"])
    await run_task(NONE, "document.ocr", document=given(THREE), mode="text")
    assert asked == [3, 1, 2, 3], "another mode may read it otherwise"


async def test_what_was_swept_is_read_again(run_task: Runner) -> None:
    first = await run_task(NONE, "document.ocr", document=given(THREE))
    run_task.blobs.sweep(-60, ())
    again = await run_task(NONE, "document.ocr", document=given(THREE))
    assert again["markdown"] == first["markdown"]
    assert not any(page["cached"] for page in again["pages"])


async def test_a_reader_that_dies_in_the_middle_costs_one_try(
    run_task: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill_at(monkeypatch, run_task.readers, {2: 1})
    result = await run_task(NONE, "document.ocr", document=given(THREE))
    assert [page["attempts"] for page in result["pages"]] == [1, 2, 1]
    assert result["pages_processed"] == 3


async def test_a_page_that_kills_every_reader_is_reported_and_the_others_read(
    run_task: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill_at(monkeypatch, run_task.readers, {2: 99})
    result = await run_task(NONE, "document.ocr", document=given(THREE))
    assert result["markdown"] == "Page 1\n\nPage 3"
    assert result["pages_processed"] == 2
    assert result["pages"][1] == {
        "page": 2, "attempts": 3, "cached": False, "error": "What read it was ended by SIGKILL.",
    }  # fmt: skip
    assert (await whole(run_task, result))["pages"][1]["error"]


async def test_a_document_of_which_no_page_can_be_read_fails(
    run_task: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill_at(monkeypatch, run_task.readers, {1: 99, 2: 99, 3: 99})
    with pytest.raises(
        InputUnavailable, match=r"`document` cannot be read. Page 1 of 3: What read it was ended"
    ):
        await run_task(NONE, "document.ocr", document=given(THREE))


async def test_the_error_of_an_only_page_is_that_of_the_task(run_task: Runner) -> None:
    wide = papers.pdf([b""], size=(7200, 7200))
    with pytest.raises(InputTooLarge, match="20,000 x 20,000"):
        await run_task(NONE, "document.ocr", document=given(wide), mode="ocr")


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (papers.pdf([b""], encrypted=True), InputUnavailable, "`document` is encrypted"),
        (b"", InputUnavailable, "`document` is empty"),
        (b"hello", InputUnavailable, "neither a PDF nor a picture"),
    ],
)
async def test_what_is_no_document(run_task: Runner, data: bytes, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        await run_task(NONE, "document.ocr", document=given(data))


async def test_too_many_bytes(run_task: Runner) -> None:
    reference = run_task.blobs.put(bytes(33 * 2**20))
    with pytest.raises(
        InputTooLarge, match=r"^`document`: sha256:.* bytes, the limit is .* raise MAX_INPUT_BYTES"
    ):
        await run_task(NONE, "document.ocr", document={"blob": reference})


async def test_a_picture_has_no_text_layer(run_task: Runner) -> None:
    picture = papers.saved("PNG", papers.looked_at(THREE, 50)[0])
    with pytest.raises(InvalidTask, match="`mode` is 'text', and `document` is a picture"):
        await run_task(NONE, "document.ocr", document=given(picture), mode="text")


async def test_a_long_text_goes_on_as_a_blob(run_task: Runner) -> None:
    page = papers.lines(40, 40, ["word " * 20] * 50, size=8, pitch=15)
    result = await run_task(NONE, "document.ocr", document=given(papers.pdf([page] * 25)))
    reference = result["markdown"]["blob"]
    text = run_task.blobs.read(reference, 10**7).decode()
    assert len(text.encode()) > task.MOST_MARKDOWN_BYTES
    assert text.count("word") == 20 * 50 * 25
    assert len(json.dumps(result)) < 16 * 1024
    assert feed(result, SummarizeArguments, {}) == {"text": {"blob": reference}}
    with pytest.raises(InvalidTask, match="no text to take its place"):
        feed(result, ChatArguments, {})


async def test_the_result_of_many_pages_fits_a_message(run_task: Runner) -> None:
    run_task.readers.most_pages = 1000
    pages = [papers.lines(60, 80, papers.PROSE[:1], size=number % 7 + 5) for number in range(1000)]
    result = await run_task(NONE, "document.ocr", document=given(papers.pdf(pages)))
    assert result["pages_processed"] == 1000
    assert len(json.dumps(result)) < 256 * 1024


async def test_a_page_that_says_too_much_fails_alone(run_task: Runner) -> None:
    loud = b"".join(papers.said(x, y, "a", 1) for x in range(2, 590, 3) for y in range(2, 840, 8))
    result = await run_task(NONE, "document.ocr", document=given(papers.pdf([THREE_WORDS, loud])))
    assert result["markdown"] == "Three small words"
    assert "bytes of JSON, the limit of a page is 1,048,576" in result["pages"][1]["error"]


async def test_what_all_pages_say_is_bounded(run_task: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "_MOST_JSON_BYTES", 1000)
    result = await run_task(NONE, "document.ocr", document=given(papers.pdf([THREE_WORDS] * 9)))
    assert 0 < result["pages_processed"] < 9
    assert len(run_task.blobs.read(result["json"]["blob"], 10**6)) < 4000
    assert "Read some pages at a time with `pages`" in result["pages"][-1]["error"]


async def test_cancelling_stops_in_the_middle_of_a_page(run_task: Runner) -> None:
    scan = papers.scanned(papers.pdf([papers.lines(60, 80, papers.PROSE * 8)] * 3))
    running = asyncio.create_task(run_task(NONE, "document.ocr", document=given(scan)))
    slow = run_task.readers.pools[1]
    await asyncio.to_thread(_wait_until, lambda: slow._busy and slow.pids)
    (reader,) = slow.pids
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not psutil.pid_exists(reader)


async def test_a_deadline_that_has_passed(run_task: Runner) -> None:
    with pytest.raises(DeadlineExceeded):
        await run_task(NONE, "document.ocr", deadline=0.0, document=given(THREE))


async def test_the_model_reads_pages_where_that_is_asked(run_task: Runner) -> None:
    eyes = Seeing(["```markdown\n# One\n```", "Two", "| a |\n| --- |"])
    result = await run_task(eyes, "document.ocr", document=given(THREE), mode="vlm")
    assert set(result["markdown"].split("\n\n")) == {"# One", "Two", "| a |\n| --- |"}
    assert {page["source"] for page in result["pages"]} == {"vlm"}
    assert result["pages"][0]["confidence"] is None
    assert (result["pages"][0]["width"], result["pages"][0]["unit"]) == (595.0, "pt")
    assert len(eyes.requests) == 3
    picture, text = eyes.requests[0]["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert "as Markdown" in text["text"]
    assert eyes.requests[0]["temperature"] == 0
    again = await run_task(Seeing([]), "document.ocr", document=given(THREE), mode="vlm")
    assert again["markdown"] == result["markdown"]
    assert all(page["cached"] for page in again["pages"])


async def test_paddleocr_vl_is_asked_as_it_was_trained(run_task: Runner) -> None:
    eyes = Seeing(["text"], vision=None, model="PaddlePaddle--PaddleOCR-VL")
    await run_task(eyes, "document.ocr", document=given(THREE), mode="vlm", pages="1")
    assert eyes.requests[0]["messages"][0]["content"][1] == {"type": "text", "text": "OCR:"}


async def test_a_model_without_eyes_is_said_to_have_none(run_task: Runner) -> None:
    with pytest.raises(BackendRejected, match="cannot see pictures"):
        await run_task(Seeing([], vision=False), "document.ocr", document=given(THREE), mode="vlm")


async def test_a_page_that_runs_away_is_reported(run_task: Runner) -> None:
    loop = ("la la la la", "repetition")
    eyes = Seeing(
        lambda request: loop if "frequency_penalty" in request or len(eyes.requests) in {2, 3} else "fine"
    )
    result = await run_task(eyes, "document.ocr", document=given(THREE), mode="vlm")
    assert result["pages_processed"] == 2
    (wrong,) = [page for page in result["pages"] if "error" in page]
    assert "repeats itself without end" in wrong["error"]
    with pytest.raises(OutputRunaway):
        await run_task(
            Seeing([loop, loop]), "document.ocr", document=given(THREE[:-1]), mode="vlm", pages="2"
        )


async def test_a_server_that_is_away_is_a_reason_to_try_the_task_again(run_task: Runner) -> None:
    eyes = Seeing(lambda _: BackendUnavailable("It is down.") if len(eyes.requests) == 2 else "fine")
    with pytest.raises(BackendUnavailable):
        await run_task(eyes, "document.ocr", document=given(THREE), mode="vlm")
    again = await run_task(Seeing(lambda _: "fine"), "document.ocr", document=given(THREE), mode="vlm")
    assert again["pages_processed"] == 3
    assert any(page["cached"] for page in again["pages"])


@pytest.fixture
def unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    """OCR is never sure enough."""
    monkeypatch.setattr(task, "_UNSURE", 1.1)


SCAN = papers.saved(
    "PNG",
    papers.looked_at(papers.pdf([papers.said(60, 80, "One line of text", 20)]))[0].crop((0, 100, 900, 300)),
)


@pytest.mark.usefixtures("unsure")
async def test_a_page_that_ocr_reads_badly_is_shown_to_the_model(run_task: Runner) -> None:
    eyes = Seeing(["# Better"], vision=None)
    result = await run_task(eyes, "document.ocr", document=given(SCAN))
    assert (result["markdown"], result["pages"][0]["source"]) == ("# Better", "vlm")
    page = (await whole(run_task, result))["pages"][0]
    assert page["lines"][0]["text"] == "One line of text", "boxes are those of OCR"
    assert result["meta"]["model"] == "scripted"


@pytest.mark.usefixtures("unsure")
@pytest.mark.parametrize(
    ("eyes", "warning"),
    [
        (Seeing([("la la", "repetition")] * 2), "repeats itself"),
        (Seeing([("# Cut", "length")]), "was cut off after"),
        (Seeing([BackendRejected("No pictures.")], vision=None), "No pictures."),
        (Seeing([BackendUnavailable("It is down.")]), "It is down."),
        (Seeing([], vision=False), None),
        (Seeing([], ready=False), None),
    ],
)
async def test_what_ocr_read_stays_where_the_model_does_no_better(
    run_task: Runner, eyes: Seeing, warning: str | None
) -> None:
    result = await run_task(eyes, "document.ocr", document=given(SCAN))
    assert "One line of text" in result["markdown"]
    assert result["pages"][0]["source"] == "ocr"
    assert (warning or "") in result["pages"][0].get("warning", "")
    assert ("warning" in result["pages"][0]) == bool(warning)


@pytest.mark.usefixtures("unsure")
async def test_boxes_of_a_turned_page_fit_its_size(run_task: Runner) -> None:
    lying = papers.saved(
        "PNG",
        papers.looked_at(papers.pdf([papers.lines(60, 80, papers.PROSE * 3)]), 100)[0].rotate(
            90, expand=True
        ),
    )
    result = await run_task(Seeing(["# Better"], vision=None), "document.ocr", document=given(lying))
    page = (await whole(run_task, result))["pages"][0]
    assert (page["source"], page["turned"]) == ("vlm", 90)
    assert page["width"] < page["height"], "as it was turned"
    assert (result["pages"][0]["width"], result["pages"][0]["height"]) == (page["width"], page["height"])
    assert all(line["box"][3] <= page["height"] for line in page["lines"])


async def test_a_page_that_ocr_reads_well_is_not_shown(run_task: Runner) -> None:
    eyes = Seeing([])
    assert (await run_task(eyes, "document.ocr", document=given(SCAN)))["pages"][0]["source"] == "ocr"
    assert eyes.requests == []


_FILE = ("path", "name", "most_pixels")


def _wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.005)


def _watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pages that are read from now on."""
    asked: list[int] = []
    real = Readers.ask

    async def ask(self: Readers, op: str, timeout_s: float, arguments: Any) -> Any:
        if op == "layer":
            asked.append(arguments["page"])
        return await real(self, op, timeout_s, arguments)

    monkeypatch.setattr(Readers, "ask", ask)
    return asked


def _kill_at(monkeypatch: pytest.MonkeyPatch, readers: Readers, times: dict[int, int]) -> None:
    """The process that reads is killed while it reads these pages, so many times each."""
    real = Readers.ask

    async def ask(self: Readers, op: str, timeout_s: float, arguments: Any) -> Any:
        if op not in {"layer", "scan"} or not times.get(arguments["page"], 0):
            return await real(self, op, timeout_s, arguments)
        times[arguments["page"]] -= 1
        await real(self, "look", timeout_s, {name: arguments[name] for name in _FILE})
        quick, _ = self.pools
        (pid,) = quick.pids
        os.kill(pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.1, os.kill, pid, signal.SIGKILL)
        return await real(self, op, timeout_s, arguments)

    monkeypatch.setattr(Readers, "ask", ask)
