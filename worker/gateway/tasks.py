"""Any task over HTTP: send, look, follow, cancel."""

from collections.abc import AsyncIterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from worker.contracts import CONTRACTS
from worker.contracts.base import Json, TaskArguments
from worker.delivery.following import position_of
from worker.delivery.states import Update
from worker.delivery.truth import look
from worker.errors import InvalidTask
from worker.gateway import events
from worker.gateway.answers import ApiError, documented, of_task_error
from worker.gateway.desk import CallerOf, Desk, DeskOf, JsonOf, Queue

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

State = Literal["PENDING", "PROGRESS", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]

_EXAMPLES: dict[str, Json] = {
    "llm.chat": {"messages": [{"role": "user", "content": "Name three rivers."}], "max_tokens": 40},
    "llm.embed": {"input": ["a river", "a mountain"]},
    "llm.extract": {
        "text": "Invoice 7 of 2 May, 120 EUR.",
        "schema": {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]},
    },
    "text.summarize": {"text": "A long text …", "max_length": 60},
    "text.keywords": {"text": "A text about rivers …", "max_keywords": 5},
    "text.normalize": {
        "request": "two large pizzas to 5 Long Street",
        "schema": {"type": "object", "properties": {"address": {"type": "string"}}},
    },
    "story.continue": {
        "session_id": "rivers",
        "prompt": "Begin a story about two rivers.",
        "max_tokens": 200,
    },
}


class Accepted(BaseModel):
    """A task that was put in its queue."""

    id: str = Field(examples=["0b44515c-c916-4ca9-9026-b38ec8fc7829"])
    task: str = Field(examples=["text.summarize"])
    queue: Queue
    state: State


class Progress(BaseModel):
    """How far a long task is."""

    done: int
    total: int
    unit: str = Field(examples=["chunks"])


class Failure(BaseModel):
    """Why a task has no result."""

    type: str = Field(examples=["ContextLengthExceeded"])
    message: str


class TaskState(Accepted):
    """Where a task is."""

    progress: Progress | None = None
    result: Any = None
    error: Failure | None = None


class Cancelled(BaseModel):
    """What a task was doing when it was cancelled, or the outcome it had already."""

    id: str
    state: State
    was: Literal["waiting", "running", "SUCCESS", "FAILURE", "REVOKED"]


TaskId = Annotated[
    str, Path(max_length=255, description="Its id.", examples=["0b44515c-c916-4ca9-9026-b38ec8fc7829"])
]


@router.post(
    "/{task}",
    status_code=202,
    response_model=Accepted,
    responses=documented(404, 408, 413, 415, 429),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "object"},
                    "examples": {name: {"value": value} for name, value in _EXAMPLES.items()},
                }
            },
        }
    },
)
async def submit(
    desk: DeskOf,
    caller: CallerOf,
    arguments: JsonOf,
    response: Response,
    task: Annotated[str, Path(max_length=255, description="Its name.", examples=["text.summarize"])],
    queue: Annotated[Queue, Query(description="Where it waits.")] = "default",
) -> Any:
    """Send a task; the body is its arguments, as docs/tasks.md has them."""
    try:
        if task in CONTRACTS:
            CONTRACTS[task].parse(arguments)
        else:
            await _check_others(desk, task, arguments)
    except InvalidTask as error:
        raise of_task_error(error) from None
    sent = await desk.send(caller, task, arguments, queue)
    response.headers["Location"] = f"/v1/tasks/{sent.id}"
    return {"id": sent.id, "task": task, "queue": queue, "state": "PENDING"}


async def _check_others(desk: Desk, task: str, arguments: Json) -> None:
    """A task that is not of this project: it is enough that a live worker says it can do it.

    Raises:
        ApiError: none does.
        InvalidTask: `options`, common to all tasks, are wrong.
    """
    known = {*CONTRACTS, *(name for worker in (await look(desk.client)).workers for name in worker.tasks)}
    if task not in known:
        close = get_close_matches(task, known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(sorted(known))}."
        raise ApiError(404, f"There is no task {task[:64]!r}. {hint}", "not_found", param="task")
    TaskArguments.parse({"options": arguments.get("options")})


@router.get("/{task}", response_model=TaskState, responses=documented(404))
async def show(desk: DeskOf, caller: CallerOf, task: TaskId) -> Any:
    """Where a task is, and its result once it has one."""
    known = await desk.known(caller, task)
    return {
        "id": task,
        "task": known.task,
        "queue": known.queue,
        **_said(await desk.follower.state(task)),
    }


@router.delete("/{task}", response_model=Cancelled, responses=documented(404))
async def cancel(desk: DeskOf, caller: CallerOf, task: TaskId) -> Any:
    """Cancel a task wherever it is: the request to its model server is closed within a second."""
    await desk.known(caller, task)
    was = await desk.cancel(task)
    return {"id": task, "state": was if was.isupper() else "REVOKED", "was": was}


@router.get(
    "/{task}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Events"},
        **documented(404),
    },
)
async def follow(
    desk: DeskOf,
    caller: CallerOf,
    task: TaskId,
    last_event_id: Annotated[str, Header(description="Go on after this event.")] = "0-0",
) -> StreamingResponse:
    """What a task says while it says it (`options.stream`), and how it ends, as server-sent events.

    `chunk`: `{seq, text}`; where `seq` is 0 again the task began anew. `done` and `error` end it, with the
    task's state. `Last-Event-ID` resumes.
    """
    await desk.known(caller, task)
    try:
        position_of(last_event_id)
    except ValueError as error:
        raise ApiError(400, f"Last-Event-ID: {error}.", param="Last-Event-ID") from None
    return events.response(_events(desk, task, last_event_id))


async def _events(desk: Desk, task_id: str, after: str) -> AsyncIterator[str]:
    async for entry in desk.follower.stream(task_id, after):
        said: Json = {"seq": entry.seq, "text": entry.text}
        if entry.index:
            said["index"] = entry.index
        if entry.delta:
            said["delta"] = entry.delta
        if entry.ends:
            said |= _said(await desk.follower.state(task_id))
        yield events.event(said, kind=entry.type, entry_id=entry.id)


def _said(update: Update) -> Json:
    """A task's state as this API has it."""
    said: Json = {"state": update.state if update.state in State.__args__ else "PENDING"}  # type: ignore[attr-defined]
    if update.state == "PROGRESS":
        said["progress"] = {"done": update.done, "total": update.total, "unit": update.unit}
    if update.state == "SUCCESS":
        said["result"] = update.result
    if update.state == "FAILURE":
        said["error"] = {"type": update.error_type, "message": update.error}
    return said
