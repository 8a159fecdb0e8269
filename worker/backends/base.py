"""What the rest of the project may ask of a model server, and what it gets back.

A task speaks to one `Backend`. Behind it may stand one server or several; which program they are is a page
of differences (`llamacpp.py`, `vllm.py`) on top of one client (`openai_compatible.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

Json = dict[str, Any]
Structured = Literal["json_schema", "json_object", "none"]


class State(StrEnum):
    """Whether a server can take work."""

    READY = "ready"
    LOADING = "loading"  # alive, but its model is not loaded yet
    DOWN = "down"  # nothing answers, or what answers is not a model server


@dataclass(frozen=True, slots=True)
class Readiness:
    """One probe of one server.

    Attributes:
        url: base URL of the server.
        state: READY, LOADING or DOWN.
        reason: one sentence for a person; empty when READY.
    """

    url: str
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter a server has loaded.

    Attributes:
        name: requests ask for it by.
        number: the server's own; 0 where it has none.
        scale: 0 to 1, how much it works on requests that ask for none.
    """

    name: str
    number: int = 0
    scale: float = 0.0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server was found to be able to do.

    Attributes:
        server: the program as it showed itself: "llama.cpp", "llama-cpp-python", "vllm", "unknown".
        model: the model requests go to (LLM_MODEL, else the server's first).
        models: every model name the server lists.
        slots: requests it works on at once; None where the server does not say (vLLM batches freely).
        context_length: tokens of prompt and answer one request may have; None where it cannot be found out.
        structured: the strongest constrained decoding `response_format` accepts.
        embeddings: whether /v1/embeddings answers.
        tokenizer: whether the server counts tokens for us.
        vision: whether the model sees pictures; None where the server does not say.
        adapters: LoRA adapters it had when it became ready.
        chat_template: whether the model has one, or is a base model; None where the server does not say.
    """

    server: str
    model: str
    models: tuple[str, ...]
    slots: int | None
    context_length: int | None
    structured: Structured
    embeddings: bool
    tokenizer: bool
    vision: bool | None = None
    adapters: tuple[Adapter, ...] = ()
    chat_template: bool | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer as it arrives, never repeated.

    Attributes:
        text: new text.
        index: which choice it belongs to.
        more: what else came, as OpenAI's `delta` has it: `tool_calls`, `reasoning_content`, `refusal`.
    """

    text: str
    index: int = 0
    more: Json = field(default_factory=dict)


@dataclass(slots=True)
class Reply:
    """A whole answer.

    Attributes:
        body: the OpenAI response object (`chat.completion`, or the embeddings list).
        server_url: which server answered.
        ttft_s: seconds from sending to the first token; None where neither a stream nor the server's own
            timings told.
        total_s: seconds from sending to the last byte, waiting for a free slot not counted.
        wait_s: seconds spent waiting for a ready server with a free slot.
        attempts: HTTP requests this answer took.
    """

    body: Json
    server_url: str
    ttft_s: float | None
    total_s: float
    wait_s: float = 0.0
    attempts: int = 1

    @property
    def text(self) -> str:
        """The first choice's text, "" where the model answered with tool calls only."""
        return str(self.body["choices"][0]["message"].get("content") or "")

    @property
    def finish_reason(self) -> str | None:
        """The first choice's `finish_reason`; None for embeddings."""
        choices = self.body.get("choices")
        return choices[0].get("finish_reason") if choices else None

    @property
    def usage(self) -> Mapping[str, int]:
        """Token counts as the server reports them: prompt_tokens, completion_tokens, total_tokens."""
        return self.body.get("usage") or {}

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt the server had read before; None where it does not say."""
        details = (self.body.get("usage") or {}).get("prompt_tokens_details")
        found = details.get("cached_tokens") if isinstance(details, dict) else None
        return found if isinstance(found, int) else None


@dataclass(frozen=True, slots=True)
class CallContext:
    """Who is calling, for logs, traces and fault tests.

    Attributes:
        task_id: the Celery task id; sent to the server as the `x-request-id` header.
        deadline: `time.monotonic()` value after which nobody wants the answer; None: no limit.
        lane: the queue the task came from: "interactive" goes first, "batch" last (see `lanes`).
        adapter: name of the LoRA adapter chats are answered with; "" for none.
        affinity: calls of the same name go to the same server while it has a free slot, for what it has read
            before; "" goes to the server with the fewest in flight.
    """

    task_id: str = ""
    deadline: float | None = None
    lane: str = "default"
    adapter: str = ""
    affinity: str = ""


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """What one server has to do now, for metrics and status.

    Attributes:
        url: base URL of the server.
        state: READY, LOADING or DOWN (also while it is put aside).
        limit: most requests this process sends it at once now; 0 unless READY.
        in_flight: requests it has of this process.
        waiting: calls of this process that wait for a slot of any server: the same number for each of them.
        probes: how often it was asked whether it takes work.
        refusals: how often it said that it is full (429, 503).
        models: names it lists; none while it is not ready.
    """

    url: str
    state: State
    limit: int
    in_flight: int
    waiting: int
    probes: int
    refusals: int
    models: tuple[str, ...] = ()


OnChunk = Callable[[Chunk], None]


class Backend(Protocol):
    """The model servers, as tasks see them. Every method may raise the errors of `worker.errors`."""

    name: str

    async def chat(self, request: Json, context: CallContext, on_chunk: OnChunk | None = None) -> Reply:
        """Send an OpenAI chat-completions request and return the whole answer.

        Waits for a ready server with a free slot; with `on_chunk` the server streams and every piece is
        handed over as it arrives. The body returned is the same with and without it.

        Raises:
            BackendRejected, ContextLengthExceeded, InputTooLarge: trying again cannot help.
            BackendUnavailable: it may; short retries have been made already.
            DeadlineExceeded: `context.deadline` passed.
        """
        ...

    async def complete(self, request: Json, context: CallContext, on_chunk: OnChunk | None = None) -> Reply:
        """Send an OpenAI completions request: the model goes on with the text `prompt`, as base models do.

        Otherwise as `chat`; the body returned is that of a chat, its message what the model wrote.
        """
        ...

    async def embed(self, request: Json, context: CallContext) -> Reply:
        """Send an OpenAI embeddings request; errors as for `chat`."""
        ...

    async def count_tokens(self, texts: Sequence[str], context: CallContext) -> list[int]:
        """Tokens of each text: asked from the server, else estimated on the safe (high) side."""
        ...

    async def capabilities(self, context: CallContext) -> Capabilities:
        """What every server can do (the weakest of several); waits for one that is ready."""
        ...

    def constrain(self, schema: Json, capabilities: Capabilities) -> Json:
        """Request fields that make the server decode JSON of this JSON Schema; {} where it cannot.

        Merge them into a chat request: `{**request, **backend.constrain(schema, capabilities)}`.
        """
        ...

    async def probe(self) -> list[Readiness]:
        """Ask each server now whether it can take work. Never raises."""
        ...

    def capacity(self) -> int:
        """Requests that may be in flight now: the limits of all servers that are ready, 0 where none is.

        Where no server will ever serve us as we are (a wrong key), it is 1: the next task is told so and asks
        again. Who wants the servers never to wait holds a few tasks more than this.
        """
        ...

    def on_capacity_change(self, callback: Callable[[], None]) -> None:
        """Have this called in the event loop whenever `capacity()` has changed; call it in that loop.

        From now on servers are asked until they are ready, also while there is no work for them.
        """
        ...

    def load(self) -> list[ServerLoad]:
        """What each server has to do now."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """What wiring hands to a backend.

    Attributes:
        urls: base URLs, without /v1.
        api_key: bearer token, "" for none.
        model: model name, "" for the server's first.
        timeout_s: seconds one request may take.
        max_concurrency: requests in flight to one server; None: as many as it says it has slots, else as many
            as are found to bring the most.
        pool_size: most requests this process has in flight at all.
        max_response_bytes: a longer answer is cut off and refused.
    """

    urls: tuple[str, ...]
    api_key: str = field(default="", repr=False)
    model: str = ""
    timeout_s: float = 120.0
    max_concurrency: int | None = None
    pool_size: int = 256
    max_response_bytes: int = 64 * 1024 * 1024
