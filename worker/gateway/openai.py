"""OpenAI's API, through the queue: a program that speaks it needs only another base URL."""

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from worker.contracts.base import Json
from worker.contracts.openai import CHAT_URL, EMBEDDINGS_URL, answer_of, arguments_of, finish_reason, task_of
from worker.delivery.following import Entry
from worker.delivery.sending import Sent
from worker.delivery.truth import look
from worker.errors import InvalidTask
from worker.gateway import events
from worker.gateway.answers import ApiError, documented, not_found, of_failure, of_task_error
from worker.gateway.desk import CallerOf, Desk, DeskOf, JsonOf
from worker.gateway.keys import Caller

router = APIRouter(prefix="/v1", tags=["openai"])

#: What a caller may say for `service_tier`, and where such a request waits.
_QUEUES = {"flex": "batch", "default": "default"}


class ChatBody(BaseModel):
    """OpenAI's chat-completions request; what the model server knows besides is handed on."""

    model_config = ConfigDict(extra="allow")

    messages: list[Json] = Field(min_length=1, examples=[[{"role": "user", "content": "Name three rivers."}]])
    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1, examples=[40])
    stream: bool | None = None
    stream_options: Json | None = None
    service_tier: str | None = Field(default=None, description="`flex`: with the batch work.")


class ChatCompletion(BaseModel):
    """OpenAI's answer."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: str = Field(examples=["chat.completion"])
    created: int
    model: str
    choices: list[Json]
    usage: Json | None = None


class EmbeddingsBody(BaseModel):
    """OpenAI's embeddings request."""

    model_config = ConfigDict(extra="allow")

    input: str | list[str] = Field(examples=[["a river", "a mountain"]])
    model: str | None = None
    encoding_format: str | None = Field(default=None, examples=["float"])
    dimensions: int | None = Field(default=None, ge=1)


class Embeddings(BaseModel):
    """OpenAI's answer."""

    model_config = ConfigDict(extra="allow")

    object: str = Field(examples=["list"])
    data: list[Json]
    model: str
    usage: Json | None = None


class Model(BaseModel):
    """A model that a worker's server has."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "kc-worker"


class Models(BaseModel):
    """All of them."""

    object: str = "list"
    data: list[Model]


def _body(model: type[BaseModel]) -> Json:
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={
        200: {"content": {"text/event-stream": {}}},
        **documented(408, 409, 413, 415, 429, 502, 504),
    },
    openapi_extra=_body(ChatBody),
)
async def chat(request: Request, desk: DeskOf, caller: CallerOf, body: JsonOf) -> Any:
    """Chat, whole or streamed; a caller that goes away cancels its task."""
    queue = _QUEUES.get(str(body.get("service_tier")), "interactive")
    sent = await _send(desk, caller, CHAT_URL, body, queue)
    if not body.get("stream"):
        return await _answer(request, desk, CHAT_URL, body, sent.id)
    options = body.get("stream_options") or {}
    stream = _ChatStream(desk, sent.id, str(body.get("model") or ""), bool(options.get("include_usage")))
    return events.response(await stream.begin())


@router.post(
    "/embeddings",
    response_model=Embeddings,
    responses=documented(408, 409, 413, 415, 429, 502, 504),
    openapi_extra=_body(EmbeddingsBody),
)
async def embeddings(request: Request, desk: DeskOf, caller: CallerOf, body: JsonOf) -> Any:
    """Embeddings, as numbers or in base64."""
    sent = await _send(desk, caller, EMBEDDINGS_URL, body, "interactive")
    return await _answer(request, desk, EMBEDDINGS_URL, body, sent.id)


@router.get("/models", response_model=Models, responses=documented())
async def models(desk: DeskOf, _caller: CallerOf) -> Any:
    """The models that live workers have."""
    found = await look(desk.client)
    names = sorted({name for worker in found.workers for name in worker.models})
    return {"data": [{"id": name} for name in names]}


@router.get("/models/{model:path}", response_model=Model, responses=documented(404))
async def model(desk: DeskOf, _caller: CallerOf, model: str) -> Any:
    """One of them."""
    found = await look(desk.client)
    if not any(model in worker.models for worker in found.workers):
        raise not_found(f"model {model[:200]!r}")
    return {"id": model}


async def _send(desk: Desk, caller: Caller, url: str, body: Json, queue: str) -> Sent:
    try:
        arguments = arguments_of(url, body)
    except InvalidTask as error:
        raise of_task_error(error) from None
    return await desk.send(caller, task_of(url), arguments, queue)


async def _answer(request: Request, desk: Desk, url: str, body: Json, task_id: str) -> Json:
    update = await desk.outcome(request, task_id)
    if update.failed:
        raise of_failure(update)
    return answer_of(url, body, task_id, update.result)


class _ChatStream:
    """One streamed answer, as OpenAI streams it.

    A task that began anew, because its worker died, says again what it has said: that is left out. Where it
    says something else, nothing can be taken back, and the stream ends with an error.
    """

    def __init__(self, desk: Desk, task_id: str, model: str, with_usage: bool) -> None:
        self._desk, self._task_id, self._model, self._with_usage = desk, task_id, model, with_usage
        self._created = int(time.time())
        self._said: dict[int, str] = {}
        self._again: dict[int, str] = {}
        self._entries = desk.follower.stream(task_id)

    async def begin(self) -> AsyncIterator[str]:
        """Wait until the model says something: a task that fails before that is answered with its status."""
        async with self._desk.cancelled_with(self._task_id):
            first = await anext(self._entries)
        if first.type == "error":
            raise of_failure(await self._desk.follower.state(self._task_id))
        return self._events(first)

    async def _events(self, first: Entry) -> AsyncIterator[str]:
        async with self._desk.cancelled_with(self._task_id):
            entry = first
            while not entry.ends:
                if (delta := self._new(entry)) is None:
                    await self._desk.cancel(self._task_id)
                    error = ApiError(
                        503, "The task began anew and says something else.", "restarted", kind="server_error"
                    )
                    yield events.event(error.body)
                    return
                if delta:
                    yield self._chunk(entry.index, delta)
                entry = await anext(self._entries)
            update = await self._desk.follower.state(self._task_id)
            if update.failed:
                yield events.event(of_failure(update).body)
                return
            for choice in update.result["choices"]:
                reason = finish_reason(choice["finish_reason"])
                yield self._chunk(choice.get("index", 0), {}, reason)
            if self._with_usage:
                yield events.event({**self._frame(), "choices": [], "usage": update.result.get("usage")})
            yield events.event("[DONE]")

    def _new(self, entry: Entry) -> Json | None:
        """What of an entry has not been said yet; None where it contradicts what has."""
        index = entry.index
        if entry.seq == 0 and self._said:
            self._again = dict(self._said)
        text = entry.text
        if expected := self._again.get(index, ""):
            same = min(len(expected), len(text))
            if expected[:same] != text[:same] or entry.delta:
                return None
            self._again[index], text = expected[same:], text[same:]
        delta: Json = dict(entry.delta)
        if index not in self._said:
            delta["role"] = "assistant"
        if text:
            delta["content"] = text
        self._said[index] = self._said.get(index, "") + text
        return delta

    def _chunk(self, index: int, delta: Json, finish_reason: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
        usage = {"usage": None} if self._with_usage else {}
        return events.event({**self._frame(), "choices": [choice], **usage})

    def _frame(self) -> Json:
        return {
            "id": f"chatcmpl-{self._task_id}",
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
        }
