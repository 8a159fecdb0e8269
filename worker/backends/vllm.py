"""LLM_BACKEND=vllm: vLLM's OpenAI-compatible server. Checked against vLLM 0.32.

It listens only once its model is loaded, /health is an empty 200 (503 when its engine died), and it batches
as many requests as fit its memory without saying how many that is.
"""

import asyncio
import re
from collections.abc import Sequence

from worker.backends import failures
from worker.backends.base import Adapter, Capabilities, Json, Readiness, State
from worker.backends.kinds import PROBE_TIMEOUT_S, choose_model, health_page
from worker.backends.openai_compatible import OpenAIClient
from worker.backends.runaway import may_run_away

_TOKENIZE_AT_ONCE = 8
_WAITING = re.compile(rb"^vllm:num_requests_waiting(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class Vllm:
    """vLLM's server."""

    name = "vllm"
    embeddings_remedy = "Let vLLM serve an embedding model (`vllm serve MODEL --runner pooling`)."

    async def readiness(self, client: OpenAIClient) -> Readiness:
        """READY or DOWN by /health; a proxy without that page is asked for the models."""
        page = await client.get("/health", PROBE_TIMEOUT_S)
        if (found := health_page(client, page)) is not None:
            return found
        await client.model_list(PROBE_TIMEOUT_S)
        return Readiness(client.url, State.READY)

    async def discover(self, client: OpenAIClient) -> Capabilities:
        """From /v1/models."""
        entries = await client.model_list(client.options.timeout_s)
        model, models = choose_model(client.options.model, entries, client.url)
        lengths = {str(entry["id"]): entry.get("max_model_len") for entry in entries}
        return Capabilities(
            server="vllm",
            model=model,
            models=models,
            slots=None,
            context_length=lengths.get(model),
            structured="json_schema",
            embeddings=False,
            tokenizer=True,
            adapters=_adapters(entries),
        )

    async def count_tokens(
        self, client: OpenAIClient, capabilities: Capabilities, texts: Sequence[str], timeout_s: float
    ) -> list[int]:
        """POST /tokenize, a text a request."""
        limit = asyncio.Semaphore(_TOKENIZE_AT_ONCE)

        async def count(text: str) -> int:
            payload = {"model": capabilities.model, "prompt": text}
            async with limit:
                answer = await client.post(
                    "/tokenize", payload, wanted="count", request_id="", timeout_s=timeout_s
                )
            return int(answer.body["count"])

        return await asyncio.gather(*map(count, texts))

    async def adapted(
        self, client: OpenAIClient, capabilities: Capabilities, request: Json, adapter: str
    ) -> Json:
        """An adapter is a model of its own, listed with the model it belongs to as `parent`."""
        if not adapter:
            return request
        names = [found.name for found in _adapters(await client.model_list(PROBE_TIMEOUT_S))]
        if adapter not in names:
            raise failures.unknown_adapter(
                client.url, adapter, names, "--enable-lora --lora-modules NAME=PATH"
            )
        return {**request, "model": adapter}

    async def queued(self, client: OpenAIClient) -> int | None:
        """From /metrics, all engines together; None behind a proxy without that page."""
        page = await client.get("/metrics", PROBE_TIMEOUT_S)
        found = _WAITING.findall(page.body) if page.status == 200 else []
        return int(sum(map(float, found))) if found else None

    def needs_stream(self, capabilities: Capabilities, request: Json) -> bool:
        """True for answers that may run away; it does not stream the prompt's own probabilities."""
        return may_run_away(request) and request.get("prompt_logprobs") is None

    def takes_one_at_a_time(self, capabilities: Capabilities) -> bool:
        """Never: it batches."""
        return False


def _adapters(entries: Sequence[Json]) -> tuple[Adapter, ...]:
    return tuple(Adapter(str(entry["id"])) for entry in entries if entry.get("parent"))
