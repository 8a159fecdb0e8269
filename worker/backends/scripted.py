"""A stand-in for an OpenAI-compatible server, for tests and benchmarks: no model, any fault.

    python -m worker.backends.scripted --port 8000 --kind llamacpp --latency 1 --slots 4

It answers with the last message's own words, as fast as it can. What it should do instead is queued with
POST /_script (see `scripted_faults`); what it was asked is told by GET /_seen, from request 100 on by
GET /_seen?after=99. POST /_state {"loading": true} makes it answer as a server that loads its model.
"""

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

from worker.backends.base import Json
from worker.backends.llamacpp import STAND_IN_TEMPLATE
from worker.backends.scripted_asked import open_pictures, text_of, tokens_asked, tokens_of
from worker.backends.scripted_faults import Fault, commit
from worker.backends.scripted_seen import Memory, Outcome, Seen

ScriptedKind = Literal["llamacpp", "llama-cpp-python", "vllm"]

#: In so many steps an answer of a server that degrades follows how many are worked on beside it.
_STEPS = 8
COMPLETIONS = "/v1/completions"


@dataclass(slots=True)
class Scripted:
    """The server's behaviour and its memory.

    Attributes:
        kind: whose manners it has.
        latency_s: seconds each answer takes.
        tokens: most tokens of an answer.
        slots: requests worked on at once; the others wait.
        degrades_past: beyond so many at once all get slower, so that together they bring less; 0: never.
        context_length: most tokens of prompt and answer; prompts over it are refused.
        embeddings: whether it embeds.
        vision: whether it takes pictures; it opens them, and counts 64 tokens for each.
        chat_template: whether its model has one; else vLLM refuses to chat, and llama.cpp makes one up.
        model: its only model.
        adapters: names of its LoRA adapters.
        loading: whether it answers as if its model were not loaded yet.
        faults: what to do instead of answering, first come first served.
        memory: the last requests.
    """

    kind: ScriptedKind = "llamacpp"
    latency_s: float = 0.0
    tokens: int = 64
    slots: int = 256
    degrades_past: int = 0
    context_length: int = 4096
    embeddings: bool = True
    vision: bool = False
    chat_template: bool = True
    model: str = "scripted"
    adapters: tuple[str, ...] = ()
    loading: bool = False
    faults: deque[Fault] = field(default_factory=deque)
    memory: Memory = field(default_factory=Memory)
    url: str = ""
    working: int = 0
    waiting: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _slots: asyncio.Semaphore | None = None
    _runner: web.AppRunner | None = None

    def script(self, *faults: Json) -> None:
        """Queue faults, as POST /_script does."""
        self.faults.extend(Fault.parse(fault) for fault in faults)

    @property
    def seen(self) -> deque[Seen]:
        """The last requests."""
        return self.memory.requests

    @property
    def most_in_flight(self) -> int:
        """Most requests it has had at once."""
        return self.memory.most_in_flight

    def chats(self) -> list[Seen]:
        """The chat requests seen."""
        return [request for request in self.seen if request.path == "/v1/chat/completions"]

    def application(self) -> web.Application:
        """The routes of its kind."""
        self._slots = asyncio.Semaphore(1 if self.kind == "llama-cpp-python" else self.slots)
        app = web.Application(client_max_size=64 * 1024 * 1024, middlewares=[self._watch])
        app.router.add_post("/_script", self._take_script)
        app.router.add_delete("/_script", self._clear_script)
        app.router.add_post("/_state", self._take_state)
        app.router.add_get("/_seen", self._show_seen)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post(COMPLETIONS, self._complete)
        app.router.add_post("/v1/embeddings", self._embed)
        if self.kind == "llama-cpp-python":
            app.router.add_get("/openapi.json", self._openapi)
            app.router.add_post("/extras/tokenize/count", self._count)
        else:
            app.router.add_get("/health", self._health)
            app.router.add_post("/tokenize", self._tokenize)
            app.router.add_get("/metrics", self._metrics)
        if self.kind == "llamacpp":
            app.router.add_get("/props", self._props)
            app.router.add_get("/lora-adapters", self._lora_adapters)
            app.router.add_get("/slots", self._show_slots)
        return app

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> Self:
        """Listen; port 0 takes a free one. `url` says where."""
        self._runner = web.AppRunner(
            self.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=2048)
        await site.start()
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        """Close all connections and stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self.memory.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @web.middleware
    async def _watch(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Remember each request and how it ended; a queued fault replaces the answer."""
        if request.path.startswith("/_"):
            return await self._call(handler, request)
        body = await request.json() if request.method == "POST" else None
        api_key = request.headers.get("authorization", "").removeprefix("Bearer ")
        seen = self.memory.begin(request.path, request.headers.get("x-request-id", ""), body, api_key)
        outcome: Outcome = "disconnected"
        try:
            if self.loading:
                response: web.StreamResponse = self._error(503, "Loading model", "unavailable_error")
            elif (fault := self._next_fault(seen)) is not None:
                if fault.reply is None:
                    response = await commit(fault, request)
                    outcome = "faulted"
                    return response
                response = await self._reply(request, body or {}, fault.reply, tokens_asked(body or {}))
            else:
                response = await self._call(handler, request)
            outcome = "answered"
        finally:
            self.memory.end(seen, outcome)
        return response

    @staticmethod
    async def _call(handler: Any, request: web.Request) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        return response

    def _next_fault(self, seen: Seen) -> Fault | None:
        for fault in list(self.faults):
            if fault.over:
                self.faults.remove(fault)
            elif fault.applies_to(seen.path, seen.request_id):
                fault.times -= 1
                if fault.times == 0:
                    self.faults.remove(fault)
                return fault
        return None

    # What tests say to it.

    async def _take_script(self, request: web.Request) -> web.Response:
        faults = await request.json()
        try:
            self.script(*(faults if isinstance(faults, list) else [faults]))
        except (TypeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"queued": len(self.faults)})

    async def _clear_script(self, _: web.Request) -> web.Response:
        self.faults.clear()
        return web.json_response({"queued": 0})

    async def _take_state(self, request: web.Request) -> web.Response:
        self.loading = bool((await request.json()).get("loading"))
        return web.json_response({"loading": self.loading})

    async def _show_seen(self, request: web.Request) -> web.Response:
        return web.json_response(self.memory.told(int(request.query.get("after", -1))))

    # What a model server is asked.

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response() if self.kind == "vllm" else web.json_response({"status": "ok"})

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.json_response({"openapi": "3.1.0", "info": {"title": "🦙 llama.cpp Python API"}})

    async def _props(self, _: web.Request) -> web.Response:
        settings = {"n_ctx": self.context_length}
        modalities = {"vision": self.vision, "audio": False}
        return web.json_response(
            {
                "default_generation_settings": settings,
                "total_slots": self.slots,
                "modalities": modalities,
                "chat_template": "{{ messages }}" if self.chat_template else STAND_IN_TEMPLATE,
            }
        )

    async def _show_slots(self, _: web.Request) -> web.Response:
        return web.json_response([{"id": 0, "is_processing": self.working > 0}])

    async def _metrics(self, _: web.Request) -> web.Response:
        if self.kind == "vllm":
            gauges = {"vllm:num_requests_running": self.working, "vllm:num_requests_waiting": self.waiting}
        else:
            gauges = {
                "llamacpp:requests_processing": self.working,
                "llamacpp:requests_deferred": self.waiting,
            }
        return web.Response(text="".join(f"# TYPE {name} gauge\n{name} {n}\n" for name, n in gauges.items()))

    async def _models(self, _: web.Request) -> web.Response:
        entry: Json = {"id": self.model, "object": "model", "owned_by": "scripted"}
        entries = [entry]
        if self.kind == "vllm":
            entry["max_model_len"] = self.context_length
            entries += [{**entry, "id": name, "parent": self.model} for name in self.adapters]
        async with self._turn():
            return web.json_response({"object": "list", "data": entries})

    async def _lora_adapters(self, _: web.Request) -> web.Response:
        return web.json_response(
            [
                {"id": place, "path": f"/adapters/{name}.gguf", "scale": 0.0}
                for place, name in enumerate(self.adapters)
            ]
        )

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        count = len(tokens_of(body.get("prompt") or body.get("content") or ""))
        found: Json = {"tokens": list(range(count))}
        if self.kind == "vllm":
            found |= {"count": count, "max_model_len": self.context_length}
        return web.json_response(found)

    async def _count(self, request: web.Request) -> web.Response:
        async with self._turn():
            return web.json_response({"count": len(tokens_of((await request.json())["input"]))})

    async def _embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not self.embeddings:
            return self._error(501, "This server does not support embeddings.", "not_supported_error")
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [
            {"object": "embedding", "index": index, "embedding": [float(len(text)), 0.0, 1.0]}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        async with self._turn():
            return web.json_response({"object": "list", "model": self.model, "data": data, "usage": usage})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        messages = body.get("messages")
        if not isinstance(messages, list):
            return self._error(400, "Expected 'messages' to be an array", "invalid_request_error")
        if self.kind == "vllm" and not self.chat_template:
            message = (
                "As of transformers v4.44, default chat template is no longer allowed, so you must provide a "
                "chat template if the tokenizer does not define one."
            )
            return self._error(400, message, "BadRequestError")
        try:
            pictures = open_pictures(messages)
        except (OSError, ValueError):
            return self._error(400, "Failed to load image or audio file", "invalid_request_error")
        if pictures and not self.vision:
            return self._error(500, "image input is not supported", "server_error")
        prompt_tokens = tokens_asked(body)
        if prompt_tokens >= self.context_length:
            return self._context_exceeded(prompt_tokens, stream=bool(body.get("stream")))
        content = text_of(messages[-1]) if messages else ""
        return await self._reply(request, body, {"content": content}, prompt_tokens)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not isinstance(prompt := body.get("prompt"), str):
            return self._error(400, '"prompt" must be a string', "invalid_request_error")
        prompt_tokens = len(tokens_of(prompt))
        if prompt_tokens >= self.context_length:
            return self._context_exceeded(prompt_tokens, stream=bool(body.get("stream")))
        last = prompt.rpartition("\n")[2]
        return await self._reply(request, body, {"content": f" {last}"}, prompt_tokens)

    async def _reply(
        self, request: web.Request, body: Json, message: Json, prompt_tokens: int
    ) -> web.StreamResponse:
        """A chat completion with this message, whole or streamed as asked."""
        pieces = tokens_of(message.get("content") or "")
        limit = min(body.get("max_tokens") or self.tokens, self.tokens)
        kept = pieces[:limit] if "content" in message else []
        top: Json = {
            "id": f"chatcmpl-{next(self._numbers)}",
            "created": int(time.time()),
            "model": body.get("model") or self.model,
        }
        finish_reason = "length" if len(pieces) > limit else "stop"
        finish_reason = "tool_calls" if message.get("tool_calls") else finish_reason
        count = len(kept)
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": count,
            "total_tokens": prompt_tokens + count,
        }
        async with self._turn():
            if body.get("stream"):
                return await self._stream(request, top, message, kept, finish_reason, usage)
            await self._generate(self.latency_s)
        whole = {"role": "assistant", **message, "content": "".join(kept) if "content" in message else None}
        said = {"text": whole["content"]} if request.path == COMPLETIONS else {"message": whole}
        choice = {"index": 0, **said, "finish_reason": finish_reason}
        answer = {**top, "object": "chat.completion", "choices": [choice], "usage": usage}
        if self.kind == "llamacpp":
            answer["timings"] = {"prompt_ms": 0.0, "predicted_n": count, "predicted_ms": self.latency_s * 500}
        return web.json_response(answer)

    async def _stream(
        self,
        request: web.Request,
        top: Json,
        message: Json,
        pieces: list[str],
        finish_reason: str,
        usage: Json,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)

        async def send(delta: Json, **fields: Any) -> None:
            said = {"text": delta.get("content") or ""} if request.path == COMPLETIONS else {"delta": delta}
            choice = {"index": 0, **said, "finish_reason": None, **fields}
            await write({**top, "object": "chat.completion.chunk", "choices": [choice]})

        async def write(event: Json) -> None:
            await response.write(b"data: %s\n\n" % json.dumps(event, ensure_ascii=False).encode())

        await send({"role": "assistant", "content": None})
        for piece in pieces:
            await self._generate(self.latency_s / len(pieces))
            await send({"content": piece})
        for index, call in enumerate(message.get("tool_calls") or []):
            await send({"tool_calls": [{"index": index, **call}]})
        await send({}, finish_reason=finish_reason)
        if self.kind != "llama-cpp-python":  # which sends no usage in streams
            await write({**top, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _context_exceeded(self, tokens: int, *, stream: bool) -> web.Response:
        if self.kind == "llamacpp":
            message = (
                f"request ({tokens} tokens) exceeds the available context size ({self.context_length} tokens)"
            )
            return self._error(400, message, "exceed_context_size_error")
        if self.kind == "llama-cpp-python" and stream:
            return web.Response(headers={"content-type": "text/event-stream"})
        message = (
            f"This model's maximum context length is {self.context_length} tokens. However, you requested "
            f"{tokens} tokens. Please reduce the length of the messages."
        )
        return self._error(400, message, "invalid_request_error")

    @staticmethod
    def _error(status: int, message: str, kind: str) -> web.Response:
        return web.json_response({"error": {"code": status, "message": message, "type": kind}}, status=status)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One of the slots."""
        if self._slots is None:
            raise RuntimeError("Scripted.application() has not been called")
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.working += 1
        try:
            yield
        finally:
            self.working -= 1
            self._slots.release()

    async def _generate(self, seconds: float) -> None:
        """Take this time, or more where too many are worked on."""
        if not self.degrades_past:
            await asyncio.sleep(seconds)
            return
        for _ in range(_STEPS):
            await asyncio.sleep(seconds / _STEPS * max(1.0, self.working / self.degrades_past) ** 2)


if __name__ == "__main__":
    from worker.backends.scripted_command import main

    main()
