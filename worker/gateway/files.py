"""OpenAI's Files API: what batches read, and what they leave."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.datastructures import FormData, UploadFile

from worker.contracts.base import Json
from worker.gateway.answers import ApiError, documented, not_found
from worker.gateway.desk import CallerOf, DeskOf
from worker.gateway.forms import form_of
from worker.storage.files import StoredFile

router = APIRouter(prefix="/v1/files", tags=["files"])

T = TypeVar("T")

#: Bytes of a form around its file.
FORM_BYTES = 64 * 1024
#: Seconds a file may be kept for, where that is said.
_LEAST_TTL_S, _MOST_TTL_S = 3600, 2_592_000
_EXAMPLE = "file-019a4d2f9c3b5e1f0a7c6d8e9b2f4a61"


class File(BaseModel):
    """A file."""

    id: str = Field(examples=[_EXAMPLE])
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"


class Files(BaseModel):
    """Some of a caller's files."""

    object: Literal["list"] = "list"
    data: list[File]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool


class DeletedFile(BaseModel):
    """A file that is no more."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


FileId = Annotated[str, Path(max_length=255, description="Its id.", examples=[_EXAMPLE])]
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": _LEAST_TTL_S,
                            "maximum": _MOST_TTL_S,
                        },
                    },
                }
            }
        },
    }
}


@router.post("", response_model=File, responses=documented(408, 413, 415, 507), openapi_extra=_FORM)
async def upload(request: Request, desk: DeskOf, caller: CallerOf) -> Any:
    """Upload the lines of a batch: a form with `file` and `purpose=batch`."""
    async with form_of(request, "`file` and `purpose`") as form:
        file, expires_at = _read(form)
        stored = await asyncio.to_thread(
            desk.files.put, caller.name, file.file, file.filename or "", "batch", expires_at
        )
    return _shown(stored)


@router.get("", response_model=Files, responses=documented(404))
async def list_files(
    desk: DeskOf,
    caller: CallerOf,
    after: Annotated[str | None, Query(max_length=255, description="Go on after this id.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> Any:
    """Your files, the newest first."""

    def found() -> Iterable[StoredFile]:
        mine = (one for one in desk.files.of_owner(caller.name) if purpose is None or one.purpose == purpose)
        return mine if order == "desc" else reversed(list(mine))

    return await asyncio.to_thread(page, found, after, limit, _shown)


@router.get("/{file}", response_model=File, responses=documented(404))
async def show(desk: DeskOf, caller: CallerOf, file: FileId) -> Any:
    """What is known of a file."""
    return _shown(await stored_file(desk, caller, file))


@router.get(
    "/{file}/content",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}, **documented(404)},
)
async def content(desk: DeskOf, caller: CallerOf, file: FileId) -> FileResponse:
    """Its bytes."""
    stored = await stored_file(desk, caller, file)
    return FileResponse(
        desk.files.path(caller.name, stored.id),
        media_type="application/octet-stream",
        filename=stored.filename,
        headers={"X-Content-Type-Options": "nosniff"},
    )


@router.delete("/{file}", response_model=DeletedFile, responses=documented(404))
async def delete(desk: DeskOf, caller: CallerOf, file: FileId) -> Any:
    """Remove a file; a batch that reads it goes on all the same."""
    stored = await stored_file(desk, caller, file)
    await asyncio.to_thread(desk.files.delete, caller.name, stored.id)
    return {"id": stored.id}


async def stored_file(desk: DeskOf, caller: CallerOf, file_id: str) -> StoredFile:
    """A caller's file.

    Raises:
        ApiError: there is none of that id, or it is another's.
    """
    stored = await asyncio.to_thread(desk.files.get, caller.name, file_id)
    if stored is None:
        raise not_found(f"file {file_id[:64]!r}")
    return stored


def page(
    found: Callable[[], Iterable[Any]], after: str | None, limit: int, show: Callable[[Any], Json]
) -> Json:
    """Some of a list, as OpenAI pages.

    Raises:
        ApiError: `after` is not in it.
    """
    rest = iter(found())
    if after is not None and not _skipped_to(rest, after):
        raise not_found(f"{after[:64]!r} to go on after")
    some = list(islice(rest, limit + 1))
    data = [show(one) for one in some[:limit]]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {
        "object": "list", "data": data, "first_id": first, "last_id": last, "has_more": len(some) > limit,
    }  # fmt: skip


def ttl_of(anchor: object, seconds: object) -> int:
    """Seconds something is kept for.

    Raises:
        ApiError: naming the field that is wrong.
    """
    if anchor != "created_at":
        raise ApiError(400, "`expires_after.anchor` has to be 'created_at'.", param="expires_after.anchor")
    text = str(seconds)
    if not text.isdecimal() or not _LEAST_TTL_S <= int(text) <= _MOST_TTL_S:
        raise ApiError(
            400,
            f"`expires_after.seconds` has to be {_LEAST_TTL_S} to {_MOST_TTL_S}.",
            param="expires_after.seconds",
        )
    return int(text)


def _read(form: FormData) -> tuple[UploadFile, int | None]:
    """The file of a form, and when it expires.

    Raises:
        ApiError: naming the field that is wrong.
    """
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise ApiError(400, "`file` is missing.", param="file")
    if purpose != "batch":
        raise ApiError(400, "`purpose` has to be 'batch'.", param="purpose")
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return file, None
    return file, int(time.time()) + ttl_of(anchor, seconds)


def _skipped_to(items: Iterator[Any], item_id: str) -> bool:
    return any(one.id == item_id for one in items)


def _shown(stored: StoredFile) -> Json:
    return {
        "id": stored.id,
        "object": "file",
        "bytes": stored.bytes,
        "created_at": stored.created_at,
        "expires_at": stored.expires_at,
        "filename": stored.filename,
        "purpose": stored.purpose,
        "status": "processed",
    }
