"""What all routes use: who calls, what he sends, and waiting for what comes of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from redis.asyncio import Redis

from worker.batch.records import Records
from worker.contracts.base import Json, read_object
from worker.database.drawings import Drawings
from worker.delivery.asking import cancel_task
from worker.delivery.following import Follower
from worker.delivery.sending import Known, Sender, Sent, TooMuch
from worker.delivery.states import Update
from worker.gateway.answers import ApiError, gone, not_found, of_too_much
from worker.gateway.keys import ANYBODY, Caller, KeyRing
from worker.storage.blobs import Blobs
from worker.storage.files import FileStore

Queue = Literal["interactive", "default", "batch"]

#: For the document alone: what is in the header is looked at below.
_BEARER = HTTPBearer(auto_error=False, description="A key that `kc-worker gateway key NAME` made.")

#: A rough measure (OpenAI's own): characters a token, and tokens of an answer nobody has limited.
_CHARS_A_TOKEN, _ANSWER_TOKENS = 4, 256


@dataclass(frozen=True, slots=True)
class Reading:
    """Where documents come and go.

    Attributes:
        blobs: where they wait for the worker.
        folder: where what was read is left, one folder a task.
        upload_to: URL of a copy; "" for none.
        most_bytes: of one document.
    """

    blobs: Blobs
    folder: Path
    upload_to: str
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Desk:
    """One for a process.

    Attributes:
        client: of the broker's Redis.
        follower: hears what becomes of tasks.
        sender: sends them.
        keys: of those who may.
        result_ttl_s: seconds it is known that a task was cancelled.
        files: of all callers.
        records: of their batches.
        reading: of documents.
        drawings: what was asked about diagrams.
    """

    client: Redis
    follower: Follower
    sender: Sender
    keys: KeyRing
    result_ttl_s: int
    files: FileStore
    records: Records
    reading: Reading
    drawings: Drawings
    _cancelling: set[asyncio.Task[str]] = field(default_factory=set)

    async def send(self, caller: Caller, task: str, kwargs: Json, queue: str) -> Sent:
        """Send a caller's task.

        Raises:
            ApiError: there is no room for it now.
        """
        options = kwargs.get("options") or {}
        kwargs = {**kwargs, "options": {**options, "tenant": caller.name}}
        tokens = _tokens(kwargs) if caller.limits.tokens_per_minute else 0
        try:
            return await self.sender.send(task, kwargs, queue, caller.name, caller.limits, tokens)
        except TooMuch as error:
            raise of_too_much(error) from None

    async def known(self, caller: Caller, task_id: str) -> Known:
        """What is known of a caller's task.

        Raises:
            ApiError: there is none of that id, or it is another's.
        """
        known = await self.sender.known(task_id)
        if known is None or known.owner != caller.name:
            raise not_found(f"task {task_id[:64]!r}")
        return known

    async def cancel(self, task_id: str) -> str:
        """Cancel a task; where it was, as `cancel_tasks` says."""
        return await cancel_task(self.client, task_id, self.result_ttl_s)

    @contextlib.asynccontextmanager
    async def cancelled_with(self, task_id: str) -> AsyncIterator[None]:
        """A task whose answer nobody gets is not worth a model server's time."""
        try:
            yield
        except BaseException:
            # Who goes away is cancelled again and again while he waits: this goes on without him.
            cancelling = asyncio.create_task(self.cancel(task_id))
            self._cancelling.add(cancelling)
            cancelling.add_done_callback(self._cancelling.discard)
            raise

    async def outcome(self, request: Request, task_id: str) -> Update:
        """Wait until a task has ended; it is cancelled if its caller goes away before.

        Raises:
            ApiError: the caller went away.
        """
        async with self.cancelled_with(task_id):
            ended = asyncio.ensure_future(self.follower.outcome(task_id))
            leaving = asyncio.ensure_future(_gone(request))
            try:
                await asyncio.wait((ended, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    raise gone()
                return ended.result()
            finally:
                for task in (ended, leaving):
                    task.cancel()
                await asyncio.gather(ended, leaving, return_exceptions=True)


def desk_of(request: Request) -> Desk:
    """The process's desk."""
    desk: Desk = request.app.state.desk
    return desk


def caller_of(request: Request, _documented: Annotated[Any, Depends(_BEARER)]) -> Caller:
    """Who calls.

    Raises:
        ApiError: nobody known.
    """
    desk = desk_of(request)
    if not desk.keys.asks:
        return Caller(ANYBODY)
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and (caller := desk.keys.caller(key.strip())):
        return caller
    raise ApiError(
        401,
        "Give an API key of this gateway: Authorization: Bearer KEY.",
        "invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


async def json_of(request: Request) -> Json:
    """The object in a request's body.

    Raises:
        ApiError: it has none.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(
            415, f"The body is {kind[:64]!r}; it has to be application/json.", "unsupported_media_type"
        )
    raw = await request.body()
    try:
        return read_object(raw)
    except ValueError as error:
        raise ApiError(400, f"The body is not a JSON object: {error}.", "invalid_json") from None


DeskOf = Annotated[Desk, Depends(desk_of)]
CallerOf = Annotated[Caller, Depends(caller_of)]
JsonOf = Annotated[Json, Depends(json_of)]


async def _gone(request: Request) -> None:
    """Return when the caller has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _tokens(kwargs: Json) -> int:
    """About how many tokens a task will take, its answer included."""
    answers = kwargs.get("n") or 1
    most = kwargs.get("max_tokens") or kwargs.get("max_completion_tokens") or _ANSWER_TOKENS
    return len(json.dumps(kwargs, ensure_ascii=False)) // _CHARS_A_TOKEN + int(answers) * int(most)
