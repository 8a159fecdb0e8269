"""Diagrams over HTTP: a picture comes in, its steps go out; what was asked, and how often."""

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field

from worker.contracts.base import Json
from worker.contracts.diagram import DiagramArguments
from worker.delivery.truth import look
from worker.diagrams import formats, table
from worker.errors import InputUnavailable, InvalidTask
from worker.gateway.answers import documented, not_found, of_failure, of_task_error, unavailable
from worker.gateway.desk import CallerOf, DeskOf
from worker.gateway.forms import Fields, uploaded

router = APIRouter(prefix="/api/v1", tags=["diagrams"])

UPLOAD_PATH = "/api/v1/process"
TASK = "diagram.describe"
#: Days of which there are statistics, each.
_DAYS = 30
_HASH = "0f343b0931126a20f133d67c2b018a3b5f5a3b7b2c0d8f2f6f0d7d2a3f5b6c7d"


class Metadata(BaseModel):
    """How an answer came to be; as docs/tasks.md has it."""

    file_name: str = Field(examples=["order.png"])
    file_type: str = Field(examples=["png"])
    file_size_kb: float
    file_hash: str = Field(examples=[_HASH], description="sha256 of the bytes.")
    processing_time: float = Field(description="Seconds.")
    timestamp: str = Field(examples=["2026-11-21T18:00:00+00:00"])
    model: str = Field(description='"" where it was read as text.')
    device: str | None = None
    adapter: str | None = None
    prompt_version: str
    cached: bool


class Next(BaseModel):
    """What comes after a step."""

    to: int
    condition: str = ""


class StepSeen(BaseModel):
    """One step."""

    number: int
    action: str
    role: str
    kind: Literal["start", "task", "decision", "end"]
    next: list[Next]


class Processed(BaseModel):
    """A diagram that was described."""

    description: str = Field(
        examples=["| № | Action | Role |\n| --- | --- | --- |\n| 1 | Open the mail | Clerk |\n"]
    )
    metadata: Metadata
    steps: list[StepSeen]
    diagrams: dict[str, str]


class Counts(BaseModel):
    """Sums over some requests."""

    requests: int
    cached: int
    errors: int
    cached_share: float = Field(description="0 to 1.")
    mean_seconds: float


class Statistics(BaseModel):
    """Your requests. The keys are types of files, models, outcomes, and dates in UTC."""

    total: Counts
    by_type: dict[str, Counts]
    by_model: dict[str, Counts] = Field(description='"": read as text.')
    by_outcome: dict[str, Counts]
    by_day: dict[str, Counts] = Field(description=f"The last {_DAYS} days on which there were any.")


class Asked(BaseModel):
    """One request."""

    id: str = Field(description="Of its task.")
    timestamp: datetime
    file_name: str
    file_type: str
    file_hash: str
    file_size_kb: float
    model: str
    adapter: str | None
    prompt_version: str
    cached: bool
    processing_time: float
    steps: int
    outcome: str = Field(examples=["success", "OutputInvalid"])
    error: str


class Requests(BaseModel):
    """Some of them, the newest first."""

    data: list[Asked]


class Known(BaseModel):
    """What was found in a file, the last time it was found."""

    file_hash: str
    description: str
    steps: list[StepSeen]
    requests: list[Asked]


_FORM_SCHEMA = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "language": {"type": "string", "examples": ["en"]},
        "adapter": {"type": "string"},
        "formats": {"type": "string", "examples": ["mermaid,bpmn"]},
        "page": {"type": "integer", "minimum": 1},
        "deadline_s": {"type": "number", "exclusiveMinimum": 0},
    },
}
_FORM = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM_SCHEMA}}}}


@router.post(
    "/process",
    response_model=Processed,
    responses=documented(408, 409, 413, 415, 429, 500, 502, 504, 507),
    openapi_extra=_FORM,
)
async def process(request: Request, desk: DeskOf, caller: CallerOf) -> Any:
    """Describe a diagram: a form with `file`, a picture, a PDF or a diagram in text.

    It waits for the answer; who goes away cancels it. `formats` are any of mermaid, plantuml, bpmn and json.
    """
    upload = await uploaded(request, desk.reading.most_bytes, _FIELDS)
    arguments = _arguments(upload.name, upload.fields)
    if not any(TASK in worker.tasks for worker in (await look(desk.client)).workers):
        raise unavailable("No live worker describes diagrams.", "no_worker")
    reference = await upload.kept(desk.reading.blobs)
    del upload
    sent = await desk.send(caller, TASK, {"image": {"blob": reference}, **arguments}, "interactive")
    ended = await desk.outcome(request, sent.id)
    if ended.state != "SUCCESS":
        raise of_failure(ended)
    return ended.result


@router.get("/statistics", response_model=Statistics, responses=documented(500))
async def statistics(desk: DeskOf, caller: CallerOf) -> Any:
    """How many diagrams you have asked about, and what became of it."""
    found = await _remembered(desk.drawings.statistics(caller.name, _DAYS))
    lists = {"by_type": "file_type", "by_model": "model", "by_outcome": "outcome", "by_day": "day"}
    return {
        "total": _counts(found["total"]),
        **{name: {row[key]: _counts(row) for row in found[key]} for name, key in lists.items()},
    }


@router.get("/recent", response_model=Requests, responses=documented(500))
async def recent(desk: DeskOf, caller: CallerOf, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Any:
    """What you asked last."""
    rows = await _remembered(desk.drawings.recent(caller.name, limit))
    return {"data": [_asked(row) for row in rows]}


@router.get("/by_hash/{file_hash}", response_model=Known, responses=documented(404, 500))
async def by_hash(
    desk: DeskOf,
    caller: CallerOf,
    file_hash: Annotated[str, Path(max_length=64, description="sha256 of its bytes.", examples=[_HASH])],
) -> Any:
    """What was found in a file of yours."""
    rows = await _remembered(desk.drawings.recent(caller.name, 100, file_hash.lower()))
    for row in rows:
        if row["result"] and (found := await _remembered(desk.drawings.find(row["result"]))):
            return {
                "file_hash": row["file_hash"],
                "description": await asyncio.to_thread(_table, found.steps),
                "steps": found.steps,
                "requests": [_asked(one) for one in rows],
            }
    raise not_found(f"diagram of the hash {file_hash!r} that was described for you")


def _table(steps: list[Json]) -> str:
    return table.write(formats.process_of(steps))


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


_FIELDS: Fields = {
    "language": str, "adapter": str, "formats": _split, "page": int, "deadline_s": float,
}  # fmt: skip


def _arguments(file_name: str, fields: Json) -> Json:
    """The arguments of the task, without its picture.

    Raises:
        ApiError: naming the one that is wrong.
    """
    deadline_s = fields.pop("deadline_s", None)
    options = {} if deadline_s is None else {"options": {"deadline_s": deadline_s}}
    arguments = {"file_name": file_name, **fields, **options}
    try:
        DiagramArguments.parse({"image": {"url": "-"}, **arguments})
    except InvalidTask as error:
        raise of_task_error(error) from None
    return arguments


async def _remembered(asked: Any) -> Any:
    """What the database says.

    Raises:
        ApiError: it does not work now.
    """
    try:
        return await asked
    except InputUnavailable as error:
        raise unavailable(str(error), "database_unavailable") from None


def _counts(row: Json) -> Json:
    requests, cached = int(row["requests"]), int(row["cached"] or 0)
    return {
        "requests": requests,
        "cached": cached,
        "errors": int(row["errors"] or 0),
        "cached_share": round(cached / requests, 4) if requests else 0.0,
        "mean_seconds": round(float(row["mean_seconds"] or 0), 3),
    }


def _asked(row: Json) -> Json:
    return {
        "id": row["task"],
        "timestamp": row["date"],
        "file_size_kb": round(row["file_bytes"] / 1024, 2),
        "processing_time": row["seconds"],
        **{name: row[name] for name in ("file_name", "file_type", "file_hash", "model", "prompt_version")},
        **{name: row[name] for name in ("cached", "steps", "outcome", "error")},
        "adapter": row["adapter"] or None,
    }
