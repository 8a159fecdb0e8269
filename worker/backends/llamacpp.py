"""LLM_BACKEND=llamacpp: llama.cpp's own server, and llama-cpp-python's, told apart by asking.

Checked against llama.cpp b11549 and llama-cpp-python 0.3.36. The second one works under one lock that even
/v1/models takes, and in its default setting (`interrupt_requests`) a waiting request cuts a running stream
short: only /health and /openapi.json may be asked while it works.
"""

import asyncio
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from worker.backends import failures
from worker.backends.base import Adapter, Capabilities, Json, Readiness, State
from worker.backends.kinds import PROBE_TIMEOUT_S, choose_model, health_page
from worker.backends.openai_compatible import OpenAIClient
from worker.backends.runaway import answer_may_pass, may_run_away
from worker.errors import BackendUnavailable, ContextLengthExceeded, TaskError

LLAMA_SERVER = "llama.cpp"
LLAMA_CPP_PYTHON = "llama-cpp-python"

#: More tokens than any context llama-cpp-python is used with; it refuses them right after tokenizing (0.2 s).
_OVERSIZED_PROMPT = "the " * 300_000
#: Tokens of an answer that ends by itself before a cancellation matters.
_SHORT_ANSWER = 64
#: The chat template llama.cpp takes for a model that has none (common/chat.cpp: CHATML_TEMPLATE_SRC).
STAND_IN_TEMPLATE = (
    "{%- for message in messages -%}\n"
    "  {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "  {{- '<|im_start|>assistant\n' -}}\n"
    "{%- endif -%}"
)
#: Tokenize requests in flight to one server: they share its HTTP threads with the chats.
_TOKENIZE_AT_ONCE = 4


class LlamaCpp:
    """Both servers."""

    name = "llamacpp"
    embeddings_remedy = "Start llama.cpp's server with --embeddings, llama-cpp-python's with EMBEDDING=true."

    async def readiness(self, client: OpenAIClient) -> Readiness:
        """READY, LOADING or DOWN by /health; without that page, by what else answers."""
        page = await client.get("/health", PROBE_TIMEOUT_S)
        if (found := health_page(client, page)) is not None:
            return found
        # llama-cpp-python, which listens only once its model is loaded, or another server without /health.
        if not await _is_llama_cpp_python(client):
            await client.model_list(PROBE_TIMEOUT_S)
        return Readiness(client.url, State.READY)

    async def discover(self, client: OpenAIClient) -> Capabilities:
        """From /props where there is one, else as llama-cpp-python."""
        props = await client.get("/props", client.options.timeout_s)
        if props.status == 200 and isinstance(settings := props.json(), dict) and "total_slots" in settings:
            return await self._llama_server(client, settings)
        return await self._llama_cpp_python(client)

    async def count_tokens(
        self, client: OpenAIClient, capabilities: Capabilities, texts: Sequence[str], timeout_s: float
    ) -> list[int]:
        """POST /tokenize or /extras/tokenize/count, a text a request."""
        if capabilities.server == LLAMA_CPP_PYTHON:
            return [
                await _count(client, "/extras/tokenize/count", {"input": text}, timeout_s) for text in texts
            ]
        limit = asyncio.Semaphore(_TOKENIZE_AT_ONCE)

        async def count(text: str) -> int:
            async with limit:
                return await _count(client, "/tokenize", {"content": text, "add_special": True}, timeout_s)

        return await asyncio.gather(*map(count, texts))

    async def adapted(
        self, client: OpenAIClient, capabilities: Capabilities, request: Json, adapter: str
    ) -> Json:
        """An adapter is known by its file's name; all others are turned off.

        A request that says nothing of them would go on from the prompt as the adapter of the request before
        has read it: where there are adapters, every request says how they are to work.
        """
        found = await _adapters(client) if adapter else capabilities.adapters
        if "lora" in request or not (adapter or found):
            return request
        names = [one.name for one in found]
        if adapter and adapter not in names:
            raise failures.unknown_adapter(client.url, adapter, names, "--lora NAME.gguf")
        scales = {one.number: one.scale if not adapter else float(one.name == adapter) for one in found}
        return {**request, "lora": [{"id": number, "scale": scale} for number, scale in scales.items()]}

    async def queued(self, client: OpenAIClient) -> int | None:
        """None: those that have a queue say how many slots they have."""
        return None

    def needs_stream(self, capabilities: Capabilities, request: Json) -> bool:
        """True for answers that may run away, and for most of llama.cpp's own server.

        That one looks at the connection after a second without any result, which on a busy server never
        comes: a cancelled answer would be generated to its end. llama-cpp-python does not stream with tools.
        """
        if capabilities.server == LLAMA_SERVER:
            return answer_may_pass(_SHORT_ANSWER, request)
        return may_run_away(request) and not request.get("tools")

    def takes_one_at_a_time(self, capabilities: Capabilities) -> bool:
        """True for llama-cpp-python."""
        return capabilities.server == LLAMA_CPP_PYTHON

    async def _llama_server(self, client: OpenAIClient, props: Json) -> Capabilities:
        entries = await client.model_list(client.options.timeout_s)
        model, models = choose_model(client.options.model, entries, client.url)
        template = props.get("chat_template") or None
        return Capabilities(
            server=LLAMA_SERVER,
            model=model,
            models=models,
            slots=props["total_slots"],
            context_length=props.get("default_generation_settings", {}).get("n_ctx"),
            structured="json_schema",
            embeddings=False,
            tokenizer=True,
            adapters=await _adapters(client),
            chat_template=template and template != STAND_IN_TEMPLATE,
            vision=bool((props.get("modalities") or {}).get("vision")),
        )

    async def _llama_cpp_python(self, client: OpenAIClient) -> Capabilities:
        known = await _is_llama_cpp_python(client)
        # Its middleware wants UUIDs; after an error inside a stream it closes the connection unannounced.
        client.request_ids_are_uuids, client.keep_alive = known, not known
        entries = await client.model_list(client.options.timeout_s)
        model, models = choose_model(client.options.model, entries, client.url)
        return Capabilities(
            server=LLAMA_CPP_PYTHON if known else "unknown",
            model=model,
            models=models,
            slots=1 if known else None,
            context_length=await _context_length(client, model) if known else None,
            structured="json_object" if known else "none",
            embeddings=False,
            tokenizer=known,
            # With the chat templates of text models it writes a picture into the prompt as letters.
            vision=False if known else None,
        )


async def _adapters(client: OpenAIClient) -> tuple[Adapter, ...]:
    """From /lora-adapters; none where there is no such page."""
    page = await client.get("/lora-adapters", PROBE_TIMEOUT_S)
    listed = page.json() if page.status == 200 else None
    return tuple(
        Adapter(PurePath(str(entry.get("path"))).stem, int(entry["id"]), float(entry.get("scale", 0)))
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("id"), int)
    )


async def _is_llama_cpp_python(client: OpenAIClient) -> bool:
    """Whether /openapi.json, which takes no lock, bears its title."""
    page = await client.get("/openapi.json", PROBE_TIMEOUT_S)
    return page.status == 200 and b"llama.cpp Python API" in page.body


async def _context_length(client: OpenAIClient, model: str) -> int | None:
    """From our container's /health, else from the error that a prompt too long for anything gives."""
    health: Any = (await client.get("/health", PROBE_TIMEOUT_S)).json()
    if isinstance(health, dict) and isinstance(health.get("n_ctx"), int):
        return int(health["n_ctx"])
    request = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": _OVERSIZED_PROMPT}]}
    try:
        await client.chat(request, request_id="", timeout_s=client.options.timeout_s)
    except ContextLengthExceeded as error:
        found = re.search(r"maximum context length is (\d+)", str(error))
        return int(found[1]) if found else None
    except BackendUnavailable:
        raise
    except TaskError:
        return None
    return None


async def _count(client: OpenAIClient, path: str, payload: Json, timeout_s: float) -> int:
    wanted = "count" if path.endswith("count") else "tokens"
    answer = await client.post(path, payload, wanted=wanted, request_id="", timeout_s=timeout_s)
    found = answer.body[wanted]
    return found if isinstance(found, int) else len(found)
