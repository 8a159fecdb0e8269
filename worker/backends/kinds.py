"""What differs between model servers: a page each (`llamacpp.py`, `vllm.py`) behind this interface."""

from collections.abc import Sequence
from typing import Protocol

from worker.backends import failures
from worker.backends.base import Capabilities, Json, Readiness, State
from worker.backends.openai_compatible import OpenAIClient, Page
from worker.errors import BackendUnavailable

#: Seconds a probe may take: a server that works keeps answering these.
PROBE_TIMEOUT_S = 5.0


class Kind(Protocol):
    """One kind of server, as LLM_BACKEND names it."""

    name: str
    embeddings_remedy: str  #: How a server of this kind is made to embed, for messages.

    async def readiness(self, client: OpenAIClient) -> Readiness:
        """Whether the server can take work.

        Raises:
            BackendUnavailable: it cannot be reached, or does not answer in time.
        """
        ...

    async def discover(self, client: OpenAIClient) -> Capabilities:
        """What a READY server can do; `embeddings` is left False, asking costs a generation.

        Raises:
            BackendRejected: it will not tell (wrong key, not a model server).
            BackendUnavailable: it cannot tell now.
        """
        ...

    async def count_tokens(
        self, client: OpenAIClient, capabilities: Capabilities, texts: Sequence[str], timeout_s: float
    ) -> list[int]:
        """Tokens of each text by the server's own tokenizer; raises the errors of the client."""
        ...

    async def adapted(
        self, client: OpenAIClient, capabilities: Capabilities, request: Json, adapter: str
    ) -> Json:
        """A chat request that is answered with a LoRA adapter, "" for the model as it is.

        Raises:
            BackendRejected: the server has none of that name; the message says which it has.
            BackendUnavailable: it cannot tell now.
        """
        ...

    async def queued(self, client: OpenAIClient) -> int | None:
        """Requests that wait inside a server whose limit has to be found; None where it does not say.

        Raises:
            BackendUnavailable: it cannot be reached, or does not answer in time.
        """
        ...

    def needs_stream(self, capabilities: Capabilities, request: Json) -> bool:
        """Whether the answer must be streamed though nobody looks.

        Because it may run away and then has to be cut (see `runaway`), or because the server notices only
        while streaming that nobody waits for the answer any more.
        """
        ...

    def takes_one_at_a_time(self, capabilities: Capabilities) -> bool:
        """Whether a second request, of any sort, would wait for or harm the first."""
        ...


def constrain(schema: Json, capabilities: Capabilities) -> Json:
    """Request fields that make such a server decode JSON of this schema; {} where it cannot."""
    if capabilities.structured == "json_schema":
        json_schema = {"name": "answer", "strict": True, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": json_schema}}
    if capabilities.structured == "json_object":
        return {"response_format": {"type": "json_object", "schema": schema}}
    return {}


def choose_model(wanted: str, entries: Sequence[Json], url: str) -> tuple[str, tuple[str, ...]]:
    """The model requests go to, and every name the server lists.

    Args:
        wanted: LLM_MODEL, "" for the first.
        entries: of GET /v1/models.
        url: base URL of the server, for the message.

    Raises:
        BackendRejected: LLM_MODEL is not one of them.
    """
    names = [name for entry in entries for name in (entry["id"], *(entry.get("aliases") or ()))]
    listed = tuple(dict.fromkeys(map(str, names)))
    if wanted and listed and wanted not in listed:
        raise failures.unknown_model(f"{url} does not serve the model {wanted!r} of LLM_MODEL.", listed)
    return wanted or (listed[0] if listed else "default"), listed


def health_page(client: OpenAIClient, page: Page) -> Readiness | None:
    """What an answer of GET /health says; None where the server has no such page.

    Raises:
        BackendRejected: web pages or a refusal: not a model server of ours.
        BackendUnavailable: an error that may pass.
    """
    if page.status == 200:
        if failures.is_html(page.headers, page.body):
            raise failures.not_an_answer(client.url, page.headers, page.body, "a health report")
        return Readiness(client.url, State.READY)
    if page.status in {404, 405, 501}:
        return None
    error = failures.from_response(client.url, page.status, page.headers, page.body)
    if isinstance(error, BackendUnavailable) and error.server_down:
        return Readiness(client.url, State.LOADING, str(error))
    if isinstance(error, BackendUnavailable):
        return Readiness(client.url, State.DOWN, str(error))
    raise error
