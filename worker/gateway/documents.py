"""Documents over HTTP: a PDF comes in, and its Markdown and JSON are left as files."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi import Path as UrlPath
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from worker.contracts.base import Json
from worker.contracts.document import OcrArguments, OcrMode
from worker.contracts.openai import refusal_of
from worker.delivery.states import Update
from worker.delivery.truth import WorkerTruth, look
from worker.documents.kind import is_pdf
from worker.errors import InputTooLarge, InputUnavailable, InvalidTask, LocalError
from worker.gateway.answers import (
    ApiError,
    documented,
    not_found,
    of_failure,
    of_storage,
    of_task_error,
    unavailable,
)
from worker.gateway.desk import CallerOf, Desk, DeskOf, Reading
from worker.gateway.forms import Fields, uploaded
from worker.storage.papers import Written, contents, stem_of, upload, write

router = APIRouter(prefix="/ocr", tags=["documents"])

UPLOAD_PATH = "/ocr/pdf"
TASK = "document.ocr"
_FIELDS: Fields = {"mode": str, "pages": str, "language": str, "dpi": int, "deadline_s": float}
#: What a task says of a document that is none, or not to be opened, is about what was sent and not about how.
_UNREADABLE = {"InputUnavailable", "ForbiddenInput"}
#: Threads in which results are written; a copy waits minutes for a server that is away.
_leaving = ThreadPoolExecutor(8, "results")
_TASK_ID = re.compile(r"[0-9a-fA-F-]{36}")
_ENDINGS = {"markdown": (".md", "text/markdown; charset=utf-8"), "json": (".json", "application/json")}


class Files(BaseModel):
    """Where the two files are."""

    markdown: str = Field(examples=["/var/lib/kc/files/ocr/0b44515c-c916-4ca9-9026-b38ec8fc7829/report.md"])
    json_: str = Field(alias="json", examples=["/var/lib/kc/files/ocr/0b44…/report.json"])


class PageRead(BaseModel):
    """What became of one page."""

    page: int
    source: Literal["text", "ocr", "vlm"] | None = None
    confidence: float | None = None
    characters: int = 0
    warning: str | None = None
    error: str | None = None


class DocumentRead(BaseModel):
    """A document that was read.

    `local_files` are paths on the gateway's machine; `downloads` are paths of this API.
    """

    status: Literal["success", "partial"] = Field(description="partial: not all pages were read.")
    input_file: str
    pages_processed: int
    local_files: Files
    downloads: Files
    s3_files: Files | None = None
    warning: str | None = Field(default=None, description="Why there are no `s3_files`.")
    timestamp: str = Field(examples=["2026-11-21T18:00:00+00:00"])
    task_id: str
    pages: list[PageRead]


_FORM_SCHEMA = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "mode": {"type": "string", "enum": ["auto", "text", "ocr", "vlm"]},
        "pages": {"type": "string", "examples": ["1-3,7"]},
        "language": {"type": "string"},
        "dpi": {"type": "integer", "minimum": 72, "maximum": 600},
        "deadline_s": {"type": "number", "exclusiveMinimum": 0},
    },
}
_FORM = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM_SCHEMA}}}}


@router.post(
    "/pdf",
    response_model=DocumentRead,
    response_model_exclude_none=True,
    responses=documented(408, 409, 413, 415, 422, 429, 500, 502, 504, 507),
    openapi_extra=_FORM,
)
async def read_pdf(
    request: Request,
    desk: DeskOf,
    caller: CallerOf,
    mode: Annotated[OcrMode | None, Query(description="How; `auto` decides page by page.")] = None,
    pages: Annotated[str | None, Query(max_length=1000, description="Which, such as 1-3,7.")] = None,
    language: Annotated[str | None, Query(max_length=8, description="ISO 639, for the model.")] = None,
    dpi: Annotated[int | None, Query(ge=72, le=600)] = None,
    deadline_s: Annotated[float | None, Query(gt=0, le=30 * 86400, description="Then it is 504.")] = None,
) -> Any:
    """Read a PDF: a form with `file`; the other fields may be in the form or in the URL.

    It waits until the document is read; who goes away cancels it. Large ones are better sent as a task.
    """
    asked = {"mode": mode, "pages": pages, "language": language, "dpi": dpi, "deadline_s": deadline_s}
    uploaded_pdf = await uploaded(request, desk.reading.most_bytes, _FIELDS)
    if not is_pdf(uploaded_pdf.data):
        raise ApiError(400, "`file` is not a PDF. Pictures can be read as a task.", "not_a_pdf", param="file")
    name = uploaded_pdf.name or "document.pdf"
    arguments = _arguments(
        {name: value for name, value in asked.items() if value is not None} | uploaded_pdf.fields
    )
    await _check_workers(desk, arguments.get("mode", "auto"))
    reference = await uploaded_pdf.kept(desk.reading.blobs)
    del uploaded_pdf
    sent = await desk.send(caller, TASK, {"document": {"blob": reference}, **arguments}, "default")
    ended = await desk.outcome(request, sent.id)
    if ended.state != "SUCCESS":
        raise _of_failure(ended)
    left, copied, warning = await asyncio.get_running_loop().run_in_executor(
        _leaving, _leave, desk.reading, sent.id, stem_of(name), ended.result
    )
    return {
        "status": "success" if ended.result["pages_processed"] == len(ended.result["pages"]) else "partial",
        "input_file": name,
        "pages_processed": ended.result["pages_processed"],
        "local_files": vars_of(left),
        "downloads": {kind: f"/ocr/results/{sent.id}/{kind}" for kind in _ENDINGS},
        "s3_files": vars_of(copied) if copied else None,
        "warning": warning or None,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "task_id": sent.id,
        "pages": ended.result["pages"],
    }


@router.get(
    "/results/{task}/{kind}",
    response_class=FileResponse,
    responses={
        200: {"content": {"text/markdown": {}, "application/json": {}}, "description": "The file"},
        **documented(404),
    },
)
async def result(
    desk: DeskOf,
    caller: CallerOf,
    task: Annotated[str, UrlPath(max_length=255, examples=["0b44515c-c916-4ca9-9026-b38ec8fc7829"])],
    kind: Annotated[Literal["markdown", "json"], UrlPath()],
) -> FileResponse:
    """What was read of a document, as long as its task is known."""
    await desk.known(caller, task)
    ending, media_type = _ENDINGS[kind]
    found = await asyncio.to_thread(_found, desk.reading.folder, task, ending)
    if found is None:
        raise not_found(f"result of {task[:64]!r}")
    return FileResponse(
        found, media_type=media_type, filename=found.name, headers={"X-Content-Type-Options": "nosniff"}
    )


def vars_of(written: Written) -> Json:
    """As the answer has it."""
    return {"markdown": written.markdown, "json": written.json}


def _arguments(found: Json) -> Json:
    """The arguments of the task, without its document.

    Raises:
        ApiError: naming the one that is wrong.
    """
    deadline_s = found.pop("deadline_s", None)
    if deadline_s is not None:
        found["options"] = {"deadline_s": deadline_s}
    try:
        OcrArguments.parse({"document": {"url": "-"}, **found})
    except InvalidTask as error:
        raise of_task_error(error) from None
    return found


def able(workers: list[WorkerTruth]) -> list[WorkerTruth]:
    """Those that read documents."""
    return [worker for worker in workers if TASK in worker.tasks]


def ocr_models(workers: list[WorkerTruth]) -> tuple[list[str], list[str]]:
    """OCR models that some worker has, and those that none has."""
    present = {name for worker in able(workers) for name, there in worker.ocr.items() if there}
    known = {name for worker in able(workers) for name in worker.ocr}
    return sorted(present), sorted(known - present)


async def _check_workers(desk: Desk, mode: str) -> None:
    """Refuse what nobody would do.

    Raises:
        ApiError: no live worker reads documents, or not so.
    """
    workers = (await look(desk.client)).workers
    reason = "" if able(workers) else "No live worker reads documents."
    if not reason and mode == "ocr" and (missing := ocr_models(workers)[1]):
        reason = f"No live worker has the OCR models {', '.join(missing)}."
    if reason:
        raise unavailable(reason, "ocr_unavailable")


def _of_failure(ended: Update) -> ApiError:
    if ended.error_type in _UNREADABLE:
        why = refusal_of(ended.error_type, ended.error)
        return ApiError(422, ended.error, why.code, kind=why.kind, param="file")
    return of_failure(ended)


def _leave(reading: Reading, task_id: str, stem: str, said: Json) -> tuple[Written, Written | None, str]:
    """Write the files, and their copy, or why there is none.

    Raises:
        ApiError: they cannot be written, or are too large.
    """
    try:
        found = contents(said, reading.blobs)
        left = write(reading.folder / task_id, stem, found)
    except InputTooLarge as error:
        raise of_task_error(error) from None
    except InputUnavailable as error:
        raise of_storage(error) from None
    except LocalError as error:
        raise ApiError(507, str(error), "storage_full", kind="server_error") from None
    if not reading.upload_to:
        return left, None, ""
    try:
        return left, upload(f"{reading.upload_to.rstrip('/')}/{task_id}", stem, found), ""
    except LocalError as error:
        return left, None, str(error)


def _found(folder: Path, task_id: str, ending: str) -> Path | None:
    if not _TASK_ID.fullmatch(task_id):
        return None
    return next(iter(sorted((folder / task_id).glob(f"[!.]*{ending}"))), None)
