"""`diagram.describe`: the steps of a process, from a picture of it or from a diagram in text."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TypeVar
from urllib.parse import urlsplit

from worker import __version__, metrics
from worker.backends.base import Json
from worker.contracts.base import Input
from worker.contracts.diagram import DiagramArguments
from worker.database.drawings import Found, Request
from worker.delivery.once import fingerprint
from worker.diagrams import formats, table
from worker.diagrams.process import Process
from worker.documents.document import opened
from worker.documents.kind import is_pdf
from worker.documents.pictures import Picture, read_picture
from worker.documents.readers import PageFailed
from worker.documents.svg import is_svg
from worker.errors import DeadlineExceeded, InputTooLarge, InputUnavailable, InvalidTask
from worker.tasks.base import Work, task
from worker.tasks.drawn import question, steps_in
from worker.tasks.seeing import check_sight

#: Bytes of the steps, their table and their diagrams, as JSON: a result is a message in Redis.
MOST_RESULT_BYTES = 200 * 1024
#: Dots an inch at which a page of a PDF is looked at, where it fits.
_DPI = 150
#: What is done with a request that nobody waits for any more.
_leaving: set[asyncio.Task[None]] = set()

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Seen:
    """What is known of a request so far."""

    name: str
    data: bytes = b""
    file_type: str = ""
    file_hash: str = ""
    model: str = ""
    prompt_version: str = ""
    result: str = ""
    cached: bool = False
    process: Process | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.began, 3)


@task("diagram.describe", DiagramArguments, shares=True)
async def describe(work: Work, arguments: DiagramArguments) -> Json:
    """The steps as a table, as data and as diagrams; see `Described`."""
    seen = _Seen(arguments.file_name or _name_of(arguments.image))
    try:
        process = seen.process = await _process(work, arguments, seen)
        written = await asyncio.to_thread(_written, process, arguments)
    except asyncio.CancelledError:
        logging_it = asyncio.create_task(_log(work, arguments, seen, *_why_stopped(work)))
        _leaving.add(logging_it)
        logging_it.add_done_callback(_leaving.discard)
        raise
    except Exception as error:
        await _log(work, arguments, seen, type(error).__name__, str(error))
        raise
    await _log(work, arguments, seen, "success", "")
    return {**written, "metadata": _metadata(arguments, seen)}


def _written(process: Process, arguments: DiagramArguments) -> Json:
    """The process in every way that is wanted; blocking.

    Raises:
        InputTooLarge: it does not fit a message.
    """
    written: Json = {
        "description": table.write(process, arguments.language),
        "steps": process.as_json(),
        "diagrams": {one: formats.write(process, one) for one in arguments.formats},
    }
    if (size := len(json.dumps(written))) > MOST_RESULT_BYTES:
        raise InputTooLarge(
            f"The {len(process.steps):,} steps have {size:,} bytes as they are wanted, "
            f"the limit of a result is {MOST_RESULT_BYTES:,}.",
            "Ask for fewer `formats`, or split the diagram; `kc-worker diagram` has no such limit for text.",
        )
    return written


def _why_stopped(work: Work) -> tuple[str, str]:
    """Outcome and error of a task that was stopped from outside."""
    try:
        work.check_deadline()
    except DeadlineExceeded as error:
        return type(error).__name__, str(error)
    return "cancelled", ""


def _name_of(image: Input) -> str:
    """The file's name where a path or an address has one."""
    return PurePath(image.path or urlsplit(image.url or "").path).name[:255]


async def _process(work: Work, arguments: DiagramArguments, seen: _Seen) -> Process:
    """The process, read or seen; `seen` is told on the way."""
    seen.data = data = await work.bytes(arguments.image, "image")
    if not data:
        raise InvalidTask("`image` is empty.", "Send a picture, a PDF or a diagram in text.")
    seen.file_hash = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
    if source := await asyncio.to_thread(formats.source_of, data, seen.name):
        seen.file_type = source
        process = await asyncio.to_thread(formats.read, data, seen.name or "`image`", arguments.page)
        seen.result = fingerprint("text", seen.file_hash, source, arguments.page, __version__)
        await _keep(work, seen.result, process)
        return process
    if not is_svg(data) and not is_pdf(data) and await asyncio.to_thread(formats.is_text, data):
        formats.read(data, seen.name or "`image`")  # says what it knows instead
    return await _seen_before(work, arguments, seen) or await _look(work, arguments, seen)


async def _seen_before(work: Work, arguments: DiagramArguments, seen: _Seen) -> Process | None:
    """What this owner was told of these bytes before, by the same model in the same words; None: nothing."""
    asked = await question(arguments.language)
    seen.prompt_version = asked.version
    seen.model = arguments.model or (await work.capabilities()).model
    how = (seen.model, arguments.adapter, asked.version, arguments.sampling())
    seen.result = fingerprint(arguments.options.tenant, seen.file_hash, arguments.page, *how)
    steps, meta = None, {}
    if found := await _spared("looked up", work.tools.drawings.find(seen.result)):
        steps, meta = found.steps, found.meta
    if steps is None and (other := await work.same(seen.result)):
        steps, meta = other["steps"], other["meta"]
        seen.file_type = other["metadata"]["file_type"]
    if steps is None:
        return None
    seen.cached, seen.file_type = True, seen.file_type or str(meta.get("file_type", ""))
    work.recall(meta)
    return await asyncio.to_thread(formats.process_of, steps)


async def _look(work: Work, arguments: DiagramArguments, seen: _Seen) -> Process:
    """Have the model look."""
    await check_sight(work)
    picture, words = await _picture(work, arguments, seen.data)
    seen.file_type = picture.format.lower()
    if arguments.adapter:
        work.call = replace(work.call, adapter=arguments.adapter)
    process = await steps_in(work, picture, words, await question(arguments.language), arguments)
    await _keep(work, seen.result, process, seen.file_type)
    return process


async def _picture(work: Work, arguments: DiagramArguments, data: bytes) -> tuple[Picture, str]:
    """The picture as the model is shown it, and the words that are known to be in it.

    Raises:
        InvalidTask: there is no such page.
        InputTooLarge, InputUnavailable: as `opened` and `read_picture` say.
    """
    look, page = work.tools.look, arguments.page
    drawn = is_svg(data)
    if not drawn and not is_pdf(data):
        if page > 1:
            raise InvalidTask("`page`: a picture has one page.", "Leave it out.")
        return await asyncio.to_thread(read_picture, data, "`image`", look), ""
    try:
        deadline = work.call.deadline
        async with opened(work.tools.readers, data, "`image`", look.most_pixels, deadline) as document:
            if page > document.count:
                raise InvalidTask(f"`page`: there is no page {page}; `image` has {document.count}.")
            words = await document.words() if drawn else ""
            sheet = await document.picture(page, _DPI, look.longest_side)
    except PageFailed as error:
        raise InputUnavailable(f"`image` could not be looked at: {error}") from None
    kind = "SVG" if drawn else "PDF"
    return Picture(sheet.png, "image/png", *sheet.pixels, sheet.pixels, kind), words


async def _keep(work: Work, key: str, process: Process, file_type: str = "") -> None:
    """Remember what was found."""
    found = Found(process.as_json(), {**work.meta(), "file_type": file_type})
    await _spared("kept", work.tools.drawings.keep(key, found))


async def _log(work: Work, arguments: DiagramArguments, seen: _Seen, outcome: str, error: str) -> None:
    """Remember the request."""
    request = Request(
        task=work.call.task_id,
        owner=arguments.options.tenant or "",
        file_name=seen.name,
        file_type=seen.file_type,
        file_hash=seen.file_hash,
        file_bytes=len(seen.data),
        model=seen.model,
        adapter=arguments.adapter or "" if seen.model else "",
        prompt_version=seen.prompt_version,
        cached=seen.cached,
        seconds=seen.seconds,
        steps=len(seen.process.steps) if seen.process else 0,
        outcome=outcome,
        error=error,
        result=seen.result if outcome == "success" else "",
    )
    await _spared("logged", work.tools.drawings.log(request))


async def _spared(what: str, asked: Awaitable[T]) -> T | None:
    """What the database says; None where it does not work: the answer counts, not the memory of it."""
    try:
        return await asked
    except Exception as error:  # noqa: BLE001 - whatever a database has to complain of
        metrics.DATABASE_MISSED.inc()
        logger.warning("A diagram was not %s: %s", what, error)
        return None


def _metadata(arguments: DiagramArguments, seen: _Seen) -> Json:
    return {
        "file_name": seen.name,
        "file_type": seen.file_type,
        "file_size_kb": round(len(seen.data) / 1024, 2),
        "file_hash": seen.file_hash,
        "processing_time": seen.seconds,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": seen.model,
        "device": None,
        "adapter": arguments.adapter if seen.model else None,
        "prompt_version": seen.prompt_version,
        "cached": seen.cached,
    }
