"""What a task is, and what it is given to work with.

A task is one `async def body(work, arguments) -> dict`, registered under its public name with its contract.
It knows nothing of Celery, Redis or HTTP.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from worker.backends.assembly import pieces_of
from worker.backends.base import Backend, CallContext, Capabilities, Chunk, Json, OnChunk, Reply
from worker.contracts.base import Input, Meta, Options, TaskArguments, TextInput
from worker.documents.pictures import Picture, read_picture
from worker.errors import DeadlineExceeded, InvalidTask
from worker.tools import Tools

#: `await same(name)` is the result of another task that does the work of that name, once it is done; None:
#: there is none, and who asks does it.
Same = Callable[[str], Awaitable[Json | None]]

#: `await progress(done, total, unit)` makes the task's state PROGRESS with these three.
Progress = Callable[[int, int, str], Awaitable[None]]


@dataclass(slots=True)
class Work:
    """One run of one task: the servers, the inputs, and the account of what was spent.

    Attributes:
        backend: the model servers.
        call: this task's id, lane and deadline, handed to every backend call.
        tools: inputs, and what is remembered.
        progress: tells the producer how far the task is.
        same: finds others who do the same.
        queue_s: seconds the task waited in the queue; None where the producer did not say when it was sent.
        on_chunk: where streamed output goes; None where nobody looks.
    """

    backend: Backend
    call: CallContext
    tools: Tools
    progress: Progress
    same: Same
    queue_s: float | None = None
    on_chunk: OnChunk | None = None
    _started: float = field(default_factory=time.monotonic)
    _usage: dict[str, int] = field(default_factory=dict)
    _attempts: int = 0
    _model: str = ""
    _ttft_s: float | None = None
    _finish_reason: str | None = None
    _cached: bool = False

    async def chat(self, request: Json, on_chunk: OnChunk | None = None) -> Reply:
        """Ask the model and put the call on this task's account; errors as for `Backend.chat`."""
        return self._record(await self.backend.chat(request, self.call, on_chunk))

    async def complete(self, request: Json, on_chunk: OnChunk | None = None) -> Reply:
        """Let the model go on with a text, as `chat`; errors as for `Backend.complete`."""
        return self._record(await self.backend.complete(request, self.call, on_chunk))

    async def embed(self, request: Json) -> Reply:
        """Embed and put the call on this task's account; errors as for `Backend.embed`."""
        return self._record(await self.backend.embed(request, self.call))

    async def capabilities(self) -> Capabilities:
        """What the servers can do; errors as for `Backend.capabilities`."""
        return await self.backend.capabilities(self.call)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text; never fewer than the server will count."""
        return await self.backend.count_tokens(texts, self.call)

    async def read(self, text: TextInput) -> str:
        """A text by value or by reference, within the limits.

        Raises:
            InputTooLarge, InputUnavailable, ForbiddenInput: as `Inputs.read` says.
        """
        if isinstance(text, str):
            self.tools.texts.check_size(len(text.encode()))
            return text
        return await self.tools.texts.read(text)

    async def bytes(self, given: Input, field: str) -> bytes:
        """A picture or document, within the limit of inputs.

        Raises:
            InvalidTask, InputTooLarge, InputUnavailable, ForbiddenInput: as `Inputs.read` says.
        """
        return await self.tools.texts.inputs.read(given, field)

    async def picture(self, given: Input, field: str) -> Picture:
        """A picture, as a model is shown it.

        Raises:
            InvalidTask, ForbiddenInput: as `Inputs.read` says.
            InputTooLarge, InputUnavailable: as it and `read_picture` say.
        """
        data = await self.bytes(given, field)
        return await asyncio.to_thread(read_picture, data, f"`{field}`", self.tools.look)

    def note_model(self, name: str) -> None:
        """Say what did the work where no model server was asked."""
        self._model = self._model or name

    def meta(self) -> Meta:
        """The `meta` of the result: the sums over all calls, the first call's TTFT, the last one's ending."""
        return {
            "model": self._model,
            "backend": self.backend.name,
            "usage": self._usage,
            "timings": {
                "queue_s": self.queue_s,
                "ttft_s": self._ttft_s,
                "total_s": round(time.monotonic() - self._started, 6),
            },
            "cached": self._cached,
            "attempts": self._attempts,
            "finish_reason": self._finish_reason,
        }

    def recall(self, meta: Json) -> None:
        """Take over what an earlier run was found to be: model, usage and ending; this one is `cached`."""
        self._model, self._finish_reason = meta["model"], meta["finish_reason"]
        self._usage, self._cached = dict(meta["usage"]), True

    def check_deadline(self) -> None:
        """Stop between two steps when nobody wants the answer any more.

        Raises:
            DeadlineExceeded: the deadline passed.
        """
        if self.call.deadline is not None and time.monotonic() >= self.call.deadline:
            raise DeadlineExceeded("options.deadline_s passed before the task was done.")

    def _record(self, reply: Reply) -> Reply:
        self._model = str(reply.body.get("model") or self._model)
        self._attempts += reply.attempts
        self._finish_reason = reply.finish_reason
        if self._ttft_s is None:
            self._ttft_s = reply.ttft_s
        for name, count in reply.usage.items():
            if isinstance(count, int):
                self._usage[name] = self._usage.get(name, 0) + count
        if (cached := reply.cached_tokens) is not None:
            self._usage["cached_tokens"] = self._usage.get("cached_tokens", 0) + cached
        return reply


Body = Callable[[Work, Any], Awaitable[Json]]


@dataclass(frozen=True, slots=True)
class Task:
    """One entry of the catalogue.

    Attributes:
        name: the public name producers send to.
        contract: how its arguments are read.
        body: what it does; returns the result without `meta`.
        shares: whether it looks itself for others who do the same; `options.cache` is of no use to it then.
    """

    name: str
    contract: type[TaskArguments]
    body: Body
    shares: bool = False


CATALOGUE: dict[str, Task] = {}


def task(name: str, contract: type[TaskArguments], *, shares: bool = False) -> Callable[[Body], Body]:
    """Register a body under its public name."""

    def register(body: Body) -> Body:
        CATALOGUE[name] = Task(name, contract, body, shares)
        return body

    return register


async def run(entry: Task, arguments: TaskArguments, work: Work) -> Json:
    """Run a task and add `meta` to its result."""
    result = await entry.body(work, arguments)
    return {**result, "meta": work.meta()}


def options_of(arguments: Json) -> Options:
    """The options of raw arguments, before the rest is read."""
    return TaskArguments.parse({"options": arguments.get("options")}).options


def feed(previous: object, contract: type[TaskArguments], arguments: Json) -> Json:
    """The arguments of a task in a chain, with the previous task's text where the task has none of its own.

    The text goes into `contract.fed_by_chain`; for `llm.chat` it becomes one user message. A task that was
    given that field, or `messages`, keeps what it was given and the previous result is not used.

    Args:
        previous: the previous task's result; a chord hands over a list, joined by blank lines.
        contract: the contract of the task to run.
        arguments: its own keyword arguments.

    Raises:
        InvalidTask: the previous result has no text, or the task takes none.
    """
    field = contract.fed_by_chain
    if field is None:
        raise InvalidTask("This task takes nothing from a previous one.", "Make it the first of the chain.")
    if field in arguments or "messages" in arguments:
        return arguments
    text = _text_of(previous)
    if text is None and (blob := _blob_of(previous)) and _takes_inputs(contract, field):
        return {**arguments, field: {"blob": blob}}
    if text is None:
        raise InvalidTask(
            f"`{field}` is missing, and the previous task's result has no text to take its place.",
            f"Pass `{field}`, or chain after a task that answers with text.",
        )
    return {**arguments, field: [{"role": "user", "content": text}] if field == "messages" else text}


def _blob_of(result: object) -> str | None:
    """The reference of a text that was too long for a result."""
    match result:
        case {"markdown": {"blob": str(blob)}}:
            return blob
        case _:
            return None


def _takes_inputs(contract: type[TaskArguments], field: str) -> bool:
    """Whether a field takes a text by reference."""
    return Input in get_args(contract.model_fields[field].annotation)


def said_in(result: Json) -> list[Chunk]:
    """A result in the pieces a stream of it would have had, one a choice."""
    if "choices" in result:
        return pieces_of(result)
    text = _text_of(result)
    return [Chunk(text)] if text else []


def _text_of(result: object) -> str | None:  # noqa: PLR0911 - one line a shape of result
    """The text of a result: itself, its text field, its keywords, or its data as JSON; None: it has none."""
    match result:
        case str(text):
            return text
        case list(parts):
            texts = [found for part in parts if (found := _text_of(part)) is not None]
            return "\n\n".join(texts) if texts and len(texts) == len(parts) else None
        case {"content": str(text)} | {"summary": str(text)} | {"markdown": str(text)} | {"text": str(text)}:
            return text
        case {"description": str(text), "steps": list()}:
            return text
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text
        case {"keywords": list(keywords)}:
            return ", ".join(str(keyword) for keyword in keywords)
        case {"data": data} | {"normalized": data}:
            return json.dumps(data, ensure_ascii=False)
        case _:
            return None
