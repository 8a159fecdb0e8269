"""OpenAI's Batch API. Batches are only handed over here: a process of its own drives them."""

import asyncio
import re
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field, field_validator

from worker.batch.records import CANCELLABLE, Record, Status
from worker.contracts.base import Contract, Json, Text
from worker.contracts.openai import task_of
from worker.errors import InvalidTask
from worker.gateway.answers import ApiError, documented, not_found, of_task_error
from worker.gateway.desk import CallerOf, DeskOf, JsonOf
from worker.gateway.files import page, ttl_of

router = APIRouter(prefix="/v1/batches", tags=["batches"])

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MOST_WINDOW_S = 30 * 86400
_EXAMPLE = "batch_019a4d2f9c3b5e1f0a7c6d8e9b2f4a61"


class OutputExpiry(Contract):
    """When the output is removed."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(examples=[86400])


class NewBatch(Contract):
    """OpenAI's request for a batch."""

    input_file_id: Text = Field(examples=["file-019a4d2f9c3b5e1f0a7c6d8e9b2f4a61"])
    endpoint: Text = Field(
        description="The `url` of every line: one of OpenAI's, or /v1/tasks/NAME.",
        examples=["/v1/chat/completions"],
    )
    completion_window: str = Field(default="24h", pattern=r"^[1-9][0-9]{0,4}[smhd]$", examples=["24h"])
    metadata: (
        Annotated[
            dict[Annotated[Text, Field(max_length=64)], Annotated[Text, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: OutputExpiry | None = None

    @field_validator("completion_window")
    @classmethod
    def _not_too_long(cls, window: str) -> str:
        if seconds_of(window) > _MOST_WINDOW_S:
            raise ValueError("at most 30d")
        return window


class LineError(BaseModel):
    """What is wrong with one line."""

    code: str
    line: int | None = None
    message: str
    param: str | None = None


class LineErrors(BaseModel):
    """What is wrong with the lines; the first hundred of it."""

    object: Literal["list"] = "list"
    data: list[LineError]


class Counts(BaseModel):
    """Lines."""

    total: int
    completed: int
    failed: int


class Batch(BaseModel):
    """OpenAI's batch. Times are Unix seconds."""

    id: str = Field(examples=[_EXAMPLE])
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = None
    errors: LineErrors | None = None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts
    usage: Json = Field(description="Tokens in and out.")
    metadata: dict[str, str] | None = None


class Batches(BaseModel):
    """Some of a caller's batches."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool


BatchId = Annotated[str, Path(max_length=255, description="Its id.", examples=[_EXAMPLE])]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": NewBatch.model_json_schema()}},
    }
}


@router.post("", response_model=Batch, responses=documented(404, 408, 413, 415, 507), openapi_extra=_BODY)
async def create(desk: DeskOf, caller: CallerOf, body: JsonOf) -> Any:
    """Start a batch of the lines of an uploaded file."""
    try:
        asked = NewBatch.parse(body)
        task_of(asked.endpoint)
    except InvalidTask as error:
        raise of_task_error(InvalidTask(re.sub(r"^`url`", "`endpoint`", str(error)))) from None
    stored = await asyncio.to_thread(desk.files.get, caller.name, asked.input_file_id)
    if stored is None or stored.purpose != "batch":
        raise ApiError(
            404,
            f"There is no file {asked.input_file_id[:64]!r} with purpose 'batch'.",
            "not_found",
            param="input_file_id",
        )
    now, ttl = int(time.time()), asked.output_expires_after
    output_ttl_s = None if ttl is None else ttl_of(ttl.anchor, ttl.seconds)
    record = Record(
        id=desk.records.new_id(),
        owner=caller.name,
        input_file_id=stored.id,
        endpoint=asked.endpoint,
        completion_window=asked.completion_window,
        created_at=now,
        expires_at=now + seconds_of(asked.completion_window),
        output_file_id=desk.files.new_id(),
        error_file_id=desk.files.new_id(),
        metadata=asked.metadata,
        output_ttl_s=output_ttl_s,
    )
    try:
        await asyncio.to_thread(desk.records.create, record, desk.files.path(caller.name, stored.id))
    except FileNotFoundError:
        raise not_found(f"file {asked.input_file_id[:64]!r}") from None
    except OSError as error:
        raise ApiError(
            507, f"The batch cannot be kept: {error.strerror}.", "storage_full", kind="server_error"
        ) from None
    return record.shown()


@router.get("", response_model=Batches, responses=documented(404))
async def list_batches(
    desk: DeskOf,
    caller: CallerOf,
    after: Annotated[str | None, Query(max_length=255, description="Go on after this id.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Any:
    """Your batches, the newest first."""
    return await asyncio.to_thread(
        page, lambda: desk.records.of_owner(caller.name), after, limit, Record.shown
    )


@router.get("/{batch}", response_model=Batch, responses=documented(404))
async def show(desk: DeskOf, caller: CallerOf, batch: BatchId) -> Any:
    """How far a batch is."""
    return (await _record(desk, caller, batch)).shown()


@router.post("/{batch}/cancel", response_model=Batch, responses=documented(404, 409))
async def cancel(desk: DeskOf, caller: CallerOf, batch: BatchId) -> Any:
    """Cancel a batch: what is done stays, every other line is in the error file as `batch_cancelled`."""
    record = await _record(desk, caller, batch)
    if record.status in CANCELLABLE:
        await asyncio.to_thread(desk.records.ask_to_cancel, record)
        record = await _record(desk, caller, batch)
    elif record.status not in {"cancelling", "cancelled"}:
        raise ApiError(409, f"{batch} is {record.status}: there is nothing left to cancel.", "batch_ended")
    return record.shown()


def seconds_of(window: str) -> int:
    """Seconds of a `completion_window`."""
    return int(window[:-1]) * _UNITS_S[window[-1]]


async def _record(desk: DeskOf, caller: CallerOf, batch_id: str) -> Record:
    record = await asyncio.to_thread(desk.records.get, caller.name, batch_id)
    if record is None:
        raise not_found(f"batch {batch_id[:64]!r}")
    return record
