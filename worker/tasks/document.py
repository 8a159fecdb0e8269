"""`document.ocr`: a document as Markdown, page by page.

Each page is tried, kept and reported on its own. What was read is kept under a hash of all it depends on, so
that a task that is delivered again, or another one of the same document, goes on where the first one stopped.
"""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from worker import __version__
from worker.backends.base import Json, State
from worker.contracts.document import OcrArguments
from worker.documents.document import Document, opened
from worker.documents.ocr import ENGINE
from worker.documents.pictures import Picture
from worker.documents.readers import PageFailed
from worker.documents.wire import packed
from worker.errors import (
    BackendRejected,
    BackendUnavailable,
    DeadlineExceeded,
    InputTooLarge,
    InputUnavailable,
    InvalidTask,
    TaskError,
)
from worker.storage.blobs import Blobs
from worker.tasks.base import Work, task
from worker.tasks.budget import answer_room
from worker.tasks.longtext import Steps, at_once, map_calls
from worker.tasks.prompts import prompt
from worker.tasks.seeing import check_sight, shown
from worker.tasks.whole import ask_whole

#: Markdown with more bytes, or less beside many pages, is kept as a blob: a result is a message in Redis.
MOST_MARKDOWN_BYTES, _MOST_RESULT_BYTES = 96 * 1024, 192 * 1024
#: Bytes of JSON of one document: a task holds it twice, and who asked reads it back.
_MOST_JSON_BYTES = 64 * 1024 * 1024
#: Times a page is tried whose process ended.
_TRIES = 3
#: Pages that OCR is less sure of are shown to the model, where there is one that sees.
_UNSURE = 0.8
#: Tokens a page may have where the caller sets no limit.
_PAGE_TOKENS = 4096
#: Seconds the model servers have to say that they are ready, before a page is shown to one.
_PROBE_S = 3.0
#: Characters of why a page was not read: all of them have to fit in a result.
_MOST_REASON = 160


@task("document.ocr", OcrArguments)
async def ocr(work: Work, arguments: OcrArguments) -> Json:
    """The Markdown, what became of each page, and all of it with boxes as a blob; see `OcrResult`."""
    data = await _bytes(work, arguments)
    try:
        look, deadline = work.tools.look, work.call.deadline
        async with opened(work.tools.readers, data, "`document`", look.most_pixels, deadline) as document:
            del data  # it lies on disk now
            chosen = arguments.chosen(document.count, work.tools.readers.most_pages)
            if arguments.mode == "text" and document.kind == "picture":
                raise InvalidTask("`mode` is 'text', and `document` is a picture.", "Use 'auto' or 'ocr'.")
            if arguments.mode == "vlm":
                await check_sight(work)
            reading = _Reading(work, arguments, document)
            steps = Steps(work, "pages")
            await steps.expect(len(chosen))
            pages = await map_calls(chosen, reading.page, await reading.at_once(), steps)
    except PageFailed as error:
        raise InputUnavailable(f"`document` cannot be opened: {error}", "Send it again.") from None
    return await _result(work, document, pages)


async def _bytes(work: Work, arguments: OcrArguments) -> bytes:
    """The document; errors as for `Work.bytes`."""
    try:
        return await work.bytes(arguments.document, "document")
    except InputTooLarge as error:
        said = str(error).removesuffix(InputTooLarge.default_hint).strip()
        raise InputTooLarge(
            f"`document`: {said}", "Send some pages at a time, or raise MAX_INPUT_BYTES on the worker."
        ) from None


@dataclass(frozen=True, slots=True)
class _Read:
    """What became of a page.

    Attributes:
        entry: of the result.
        whole: all that is known of it, as JSON.
        markdown: its text.
        error: why it was not read.
    """

    entry: Json
    whole: bytes
    markdown: str = ""
    error: Exception | None = None


@dataclass(slots=True)
class _Reading:
    """Reads the pages of one document.

    Attributes:
        work: the run.
        arguments: its arguments.
        document: what is read.
        blind: why no model is shown pages that OCR read badly; None: nobody has asked yet.
        taken_bytes: of JSON of the pages that were read.
    """

    work: Work
    arguments: OcrArguments
    document: Document
    blind: bool | None = None
    taken_bytes: int = 0

    async def at_once(self) -> int:
        """Pages side by side: as many as are read at once, or shown to a model."""
        if self.arguments.mode == "vlm":
            return at_once(await self.work.capabilities())
        return self.work.tools.readers.processes

    async def page(self, number: int) -> _Read:
        """Read a page, or say why not.

        Raises:
            BackendUnavailable, DeadlineExceeded: it is worth another try of the task, or too late.
        """
        self.work.check_deadline()
        entry: Json = {"page": number, "attempts": 0, "cached": True}
        try:
            if self.arguments.mode == "vlm":
                said = await self._shown(number, entry)
            else:
                said = await self._read(number, self.arguments.mode, entry)
                if said["source"] == "ocr" and said["confidence"] < _UNSURE and said["characters"]:
                    said = await self._refined(number, entry, said)
            whole = await asyncio.to_thread(packed, {"page": number, **said})
            self._take(len(whole))
        except (BackendUnavailable, DeadlineExceeded):
            raise
        except (TaskError, PageFailed) as error:
            entry |= {"cached": False, "error": _reason(error)}
            return _Read(entry, packed(entry), error=error)
        for name in ("source", "confidence", "characters", "width", "height", "unit"):
            entry[name] = said[name]
        return _Read(entry, whole, said["markdown"])

    def _take(self, size: int) -> None:
        """Make room for so many bytes.

        Raises:
            InputTooLarge: the pages before have left too little.
        """
        if self.taken_bytes + size > _MOST_JSON_BYTES:
            raise InputTooLarge(
                f"The JSON of all pages has more than {_MOST_JSON_BYTES:,} bytes.",
                "Read some pages at a time with `pages`.",
            )
        self.taken_bytes += size

    async def _read(self, number: int, mode: Literal["auto", "text", "ocr"], entry: Json) -> Json:
        """A page as it is read without a model."""
        about = ("read", mode, 0 if mode == "text" else self.arguments.dpi, ENGINE)
        read = partial(self.document.read, number, mode, self.arguments.dpi)
        return await self._once(number, about, entry, read)

    async def _shown(self, number: int, entry: Json) -> Json:
        """A page as the model reads it."""
        model = self.arguments.model or (await self.work.capabilities()).model or ""
        instructions, version = _instructions(model, self.arguments.language)
        sampling = {"temperature": 0, **self.arguments.sampling()}
        about = ("vlm", model, version, self.work.tools.look.longest_side, self.arguments.dpi, sampling)

        async def show() -> Json:
            sheet = await self.document.picture(number, self.arguments.dpi, self.work.tools.look.longest_side)
            picture = Picture(sheet.png, "image/png", *sheet.pixels, sheet.pixels, "PNG")
            messages = shown(picture, instructions)
            wanted = sampling.get("max_tokens") or _PAGE_TOKENS
            context = (await self.work.capabilities()).context_length
            room = await answer_room(self.work, messages, wanted, context)
            reply = await ask_whole(self.work, {**sampling, "messages": messages, "max_tokens": room})
            said = _unfenced(reply.text)
            if reply.finish_reason == "length":
                entry["warning"] = f"The model's answer was cut off after {room} tokens."
            return {
                "source": "vlm", "confidence": None, "characters": len("".join(said.split())),
                "width": sheet.size[0], "height": sheet.size[1], "unit": sheet.unit, "turned": 0,
                "markdown": said, "blocks": [], "lines": [],
            }  # fmt: skip

        return await self._once(number, about, entry, show)

    async def _refined(self, number: int, entry: Json, said: Json) -> Json:
        """A page that OCR read badly, as the model reads it; as it was where that does not go better."""
        if not await self._sees():
            return said
        try:
            refined = await self._shown(number, entry)
        except DeadlineExceeded:
            raise
        except (TaskError, PageFailed) as error:
            self.blind = isinstance(error, BackendRejected)
            entry["warning"] = f"The model did not read it better: {_reason(error)}"
            return said
        if not refined["markdown"] or "warning" in entry:
            return said
        boxes = {name: said[name] for name in ("width", "height", "unit", "turned", "blocks", "lines")}
        return {**refined, **boxes}

    async def _sees(self) -> bool:
        """Whether a model server is ready now that does not say that it cannot see."""
        if self.blind is None:
            try:
                async with asyncio.timeout(_PROBE_S):
                    ready = any(one.state is State.READY for one in await self.work.backend.probe())
                    self.blind = not ready or (await self.work.capabilities()).vision is False
            except (TimeoutError, TaskError):
                self.blind = True
        return not self.blind

    async def _once(
        self, number: int, about: tuple[object, ...], entry: Json, read: Callable[[], Awaitable[Json]]
    ) -> Json:
        """What was read before, else read it now and keep it."""
        known = json.dumps([__version__, self.document.digest, number, *about], sort_keys=True)
        key = hashlib.sha256(known.encode()).hexdigest()
        blobs = self.work.tools.texts.inputs.blobs
        if (found := await asyncio.to_thread(_kept, blobs, key)) is not None:
            return found
        entry["cached"] = False
        for left in reversed(range(_TRIES)):
            entry["attempts"] += 1
            try:
                said = await read()
                break
            except PageFailed as error:
                if not (error.again and left):
                    raise
        if "warning" not in entry:
            with contextlib.suppress(InputUnavailable):  # the store does not take it: then it is read again
                await asyncio.to_thread(lambda: blobs.keep(key, packed(said)))
        return said


async def _result(work: Work, document: Document, pages: list[_Read]) -> Json:
    """The result of a document.

    Raises:
        TaskError: none of its pages was read.
    """
    read = [page for page in pages if page.error is None]
    if not read:
        raise _nothing_read(pages)
    if any(page.entry["source"] == "ocr" for page in read):
        work.note_model(ENGINE)
    markdown: str | Json = "\n\n".join(page.markdown for page in read if page.markdown)
    blobs = work.tools.texts.inputs.blobs
    reference = await asyncio.to_thread(_put, blobs, document.kind, pages)
    raw = str(markdown).encode()
    entries = [page.entry for page in pages]
    if len(raw) > min(MOST_MARKDOWN_BYTES, _MOST_RESULT_BYTES - len(json.dumps(entries))):
        markdown = {"blob": await asyncio.to_thread(blobs.put, raw)}
    return {
        "markdown": markdown,
        "pages": entries,
        "pages_processed": len(read),
        "json": {"blob": reference},
    }


def _kept(blobs: Blobs, key: str) -> Json | None:
    kept = blobs.kept(key)
    return None if kept is None else json.loads(kept)


def _put(blobs: Blobs, kind: str, pages: list[_Read]) -> str:
    """Keep the JSON of a document; its reference."""
    return blobs.put(b'{"kind":"%s","pages":[%s]}' % (kind.encode(), b",".join(page.whole for page in pages)))


def _nothing_read(pages: list[_Read]) -> Exception:
    first = pages[0]
    if len(pages) == 1 and isinstance(first.error, TaskError):
        return first.error
    return InputUnavailable(
        f"`document` cannot be read. Page {first.entry['page']} of {len(pages)}: {first.entry['error']}",
        "Send it again, or as pictures.",
    )


def _reason(error: Exception) -> str:
    said = str(error)
    return said if len(said) <= _MOST_REASON else f"{said[: _MOST_REASON - 1]}…"


def _instructions(model: str, language: str) -> tuple[str, str]:
    """What a model is asked to do with a page, and the version of that.

    PaddleOCR-VL was trained on one prompt for text, and knows no other words.
    """
    if "paddleocr-vl" in model.lower():
        return "OCR:", "paddleocr-vl"
    found = prompt("ocr", language if language == "pl" else "en")
    return found.fill(), found.version


def _unfenced(text: str) -> str:
    """Markdown without the fence that models like to put around it."""
    text = text.strip()
    first, _, rest = text.partition("\n")
    if first.strip() in {"```", "```markdown", "```md"}:
        text = rest.removesuffix("```").strip()
    return text
