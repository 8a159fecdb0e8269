"""One `Backend` over one server or several: balancing, waiting for readiness, retries and deadlines.

A server that is down, loading or full costs a task no attempt: the task waits, its deadline running. Only an
answer that failed is tried again, a few times, on another server where there is one.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from worker.backends import failures, kinds, tokens
from worker.backends.base import (
    BackendOptions,
    CallContext,
    Capabilities,
    Chunk,
    Json,
    OnChunk,
    Readiness,
    Reply,
    State,
    Structured,
)
from worker.backends.gate import Gate, Server, backoff_s
from worker.backends.openai_compatible import Answer, OpenAIClient
from worker.errors import BackendRejected, BackendUnavailable, DeadlineExceeded, TaskError

logger = logging.getLogger(__name__)

#: Failed answers a task puts up with, and the waits between them (full jitter), seconds.
ATTEMPTS = 5
LEAST_WAIT_S, MOST_WAIT_S = 0.1, 5.0
#: A server that is down is asked again after this long, doubling up to the most; seconds.
PROBE_EVERY_S, MOST_PROBE_EVERY_S = 1.0, 10.0
#: Counting tokens is help, not work: no longer than this, seconds.
TOKENIZE_TIMEOUT_S = 60.0

Send = Callable[[Server, Capabilities], Awaitable[Answer]]


class Fleet:
    """The servers of one process.

    Belongs to the event loop that uses it first: a thread with a loop of its own needs a fleet of its own.

    Args:
        kind: what differs between servers of this LLM_BACKEND.
        options: where they are and how much they get.
    """

    def __init__(self, kind: kinds.Kind, options: BackendOptions) -> None:
        self.name = kind.name
        self._kind = kind
        self._options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate = Gate(
            [
                Server(OpenAIClient(url, options), Readiness(url, State.DOWN, f"{url} has not answered yet."))
                for url in options.urls
            ]
        )

    async def chat(self, request: Json, context: CallContext, on_chunk: OnChunk | None = None) -> Reply:
        """As `Backend.chat` says."""
        handed_over = False

        def hand_over(chunk: Chunk) -> None:
            nonlocal handed_over
            if on_chunk is not None:
                handed_over = True
                on_chunk(chunk)

        async def send(server: Server, capabilities: Capabilities) -> Answer:
            payload = await _with_model(request, server, capabilities)
            stream = on_chunk is not None or self._kind.needs_stream(capabilities, payload)
            try:
                return await server.client.chat(
                    payload,
                    request_id=context.task_id,
                    timeout_s=self._options.timeout_s,
                    on_chunk=hand_over if stream else None,
                )
            except BackendUnavailable as error:
                if handed_over:
                    raise _Broken(error) from error
                raise

        return await self._call(send, context)

    async def embed(self, request: Json, context: CallContext) -> Reply:
        """As `Backend.embed` says."""

        async def send(server: Server, capabilities: Capabilities) -> Answer:
            payload = await _with_model(request, server, capabilities)
            return await server.client.post(
                "/v1/embeddings",
                payload,
                wanted="data",
                request_id=context.task_id,
                timeout_s=self._options.timeout_s,
            )

        try:
            return await self._call(send, context)
        except BackendRejected as error:
            if (await self.capabilities(context)).embeddings:
                raise
            # Each server says it differently, vLLM with a bare 404.
            raise BackendRejected(f"No embeddings: {error}", self._kind.embeddings_remedy) from error

    async def count_tokens(self, texts: Sequence[str], context: CallContext) -> list[int]:
        """As `Backend.count_tokens` says; a server that does not help is made up for by an estimate."""
        if not texts:
            return []
        try:
            async with self._bounded(context), self._slot_if_alone() as server:
                if server.capabilities is not None and server.capabilities.tokenizer:
                    timeout_s = min(TOKENIZE_TIMEOUT_S, self._options.timeout_s)
                    return await self._kind.count_tokens(server.client, server.capabilities, texts, timeout_s)
        except TaskError as error:
            logger.info("Token counts are estimated: %s", error)
        return [tokens.estimate(text) for text in texts]

    async def capabilities(self, context: CallContext) -> Capabilities:
        """As `Backend.capabilities` says; a server that was never reached does not count."""
        async with self._bounded(context):
            self._start_watching()
            await self._gate.ready()
            await asyncio.gather(*(server.asked.wait() for server in self._gate.servers))
            await asyncio.gather(*(self._embeds(server) for server in self._gate.servers if server.ready))
        return weakest(
            [
                replace(server.capabilities, embeddings=bool(server.embeddings))
                for server in self._gate.servers
                if server.capabilities is not None
            ]
        )

    def constrain(self, schema: Json, capabilities: Capabilities) -> Json:
        """As `Backend.constrain` says."""
        return kinds.constrain(schema, capabilities)

    async def probe(self) -> list[Readiness]:
        """As `Backend.probe` says."""
        self._bind()
        return list(await asyncio.gather(*map(self._probe, self._gate.servers)))

    async def aclose(self) -> None:
        """Stop watching and close all connections."""
        tasks = [
            task
            for server in self._gate.servers
            for task in (server.watcher, server.asking)
            if task is not None
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(server.client.aclose() for server in self._gate.servers))

    async def _call(self, send: Send, context: CallContext) -> Reply:
        """One answer, whatever it takes within the rules at the top of this file."""
        attempts, wait_s = 0, 0.0
        failed_on: Server | None = None
        last_failure: TaskError | None = None

        async def attempt() -> Reply:
            nonlocal attempts, wait_s, failed_on, last_failure
            while True:
                asked_at = time.monotonic()
                self._start_watching()
                async with self._slot(avoid=failed_on, first=attempts > 0) as server:
                    wait_s += time.monotonic() - asked_at
                    attempts += 1
                    try:
                        answer = await send(server, server.known)
                    except (BackendUnavailable, _Broken) as error:
                        failed_on = server
                        if isinstance(error, _Broken):
                            self._put_aside(server, error.reason)
                            raise
                        last_failure = error
                        if not self._put_aside(server, error):
                            raise
                    else:
                        server.answered()
                        return Reply(
                            answer.body, server.client.url, answer.ttft_s, answer.total_s, wait_s, attempts
                        )

        retrying = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=2 * LEAST_WAIT_S, min=LEAST_WAIT_S, max=MOST_WAIT_S),
            retry=retry_if_exception_type(BackendUnavailable),
            reraise=True,
        )
        try:
            async with self._bounded(context):
                return await retrying(attempt)
        except _Broken as broken:
            raise broken.reason from None
        except DeadlineExceeded:
            if last_failure is None:
                raise
            raise DeadlineExceeded(f"The deadline passed while retrying. {last_failure}") from last_failure

    @asynccontextmanager
    async def _bounded(self, context: CallContext) -> AsyncIterator[None]:
        """No longer than the task's deadline."""
        self._bind()
        left_s = None if context.deadline is None else context.deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise DeadlineExceeded("The task's deadline passed before the model server was asked.")
        try:
            async with asyncio.timeout(left_s):
                yield
        except TimeoutError:
            late = DeadlineExceeded(
                f"No answer from {', '.join(self._options.urls)} before the task's deadline."
            )
            raise self._gate.outage() or late from None

    @asynccontextmanager
    async def _slot(
        self, *, avoid: Server | None = None, only: Server | None = None, first: bool = False
    ) -> AsyncIterator[Server]:
        server = await self._gate.take(avoid=avoid, only=only, first=first)
        try:
            yield server
        finally:
            self._gate.give_back(server)

    @asynccontextmanager
    async def _slot_if_alone(self) -> AsyncIterator[Server]:
        """A ready server for a small question; with a slot only where the question would disturb a chat."""
        self._start_watching()
        server = await self._gate.ready()
        if self._kind.takes_one_at_a_time(server.known):
            async with self._slot() as server:
                yield server
        else:
            yield server

    def _bind(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(
                "A Fleet belongs to the event loop that used it first; make one for each loop."
            )

    def _put_aside(self, server: Server, error: BackendUnavailable) -> bool:
        """Let its server bear a failure; true where it is the server's alone and costs no attempt."""
        if error.server_down:
            self._set_down(server, str(error))
            self._watch(server, backoff_s(server.failures, PROBE_EVERY_S, MOST_PROBE_EVERY_S))
            server.failures += 1
            return True
        self._watch(server, 0.0)
        if error.retry_after_s is None:
            return False
        asyncio.get_running_loop().call_later(server.rest(error.retry_after_s), self._gate.wake)
        return True

    def _start_watching(self) -> None:
        for server in self._gate.servers:
            if not server.ready:
                self._watch(server, 0.0)

    def _watch(self, server: Server, delay_s: float) -> None:
        if server.watcher is None or server.watcher.done():
            server.watcher = asyncio.create_task(self._until_ready(server, delay_s))

    async def _until_ready(self, server: Server, delay_s: float) -> None:
        """Ask until the server takes work, or says that it never will."""
        tries = 0
        while True:
            await asyncio.sleep(delay_s)
            try:
                found = await self._kind.readiness(server.client)
                if found.state is State.READY and not server.ready:
                    self._set_ready(server, await self._kind.discover(server.client))
            except BackendUnavailable as error:
                if server.ready and not error.server_down:
                    return  # slow to say so, but it was only a suspicion
                found = Readiness(server.client.url, State.DOWN, str(error))
            except TaskError as error:
                self._set_down(server, str(error))
                if not any(self._may_come(other) for other in self._gate.servers if other is not server):
                    self._gate.refuse(error)
                return
            except Exception as error:
                logger.exception("Asking %s failed", server.client.url)
                found = Readiness(server.client.url, State.DOWN, f"{server.client.url}: {error!r}.")
            if found.state is State.READY:
                return
            self._set_down(server, found.reason, found.state)
            delay_s = backoff_s(tries, PROBE_EVERY_S, MOST_PROBE_EVERY_S)
            tries += 1

    def _may_come(self, server: Server) -> bool:
        return server.ready or (server.watcher is not None and not server.watcher.done())

    def _set_ready(self, server: Server, found: Capabilities) -> None:
        most = self._options.max_concurrency or found.slots or self._options.pool_size
        server.limit = 1 if self._kind.takes_one_at_a_time(found) else most
        server.capabilities, server.embeddings = found, None
        server.client.models = found.models
        server.readiness = Readiness(server.client.url, State.READY)
        server.asked.set()
        logger.info(
            "%s is ready: %s, %s, %d at once", server.client.url, found.server, found.model, server.limit
        )
        self._gate.wake()

    def _set_down(self, server: Server, reason: str, state: State = State.DOWN) -> None:
        if server.readiness.reason != reason:
            logger.warning("Work waits for a model server. %s", reason)
        server.readiness = Readiness(server.client.url, state, reason)
        server.asked.set()

    async def _probe(self, server: Server) -> Readiness:
        try:
            return await self._kind.readiness(server.client)
        except BackendUnavailable as error:
            if server.ready and server.in_flight and not error.server_down:
                return server.readiness  # busy with our own requests
            return Readiness(server.client.url, State.DOWN, str(error))
        except TaskError as error:
            return Readiness(server.client.url, State.DOWN, str(error))

    async def _embeds(self, server: Server) -> None:
        """Know whether a server embeds; however many want to know, it is asked once."""
        if server.embeddings is not None:
            return
        if server.asking is None or server.asking.done():
            server.asking = asyncio.create_task(self._ask_embeddings(server))
        await asyncio.shield(server.asking)

    async def _ask_embeddings(self, server: Server) -> None:
        payload = {"model": server.known.model, "input": "a"}
        alone = self._kind.takes_one_at_a_time(server.known)
        try:
            async with self._slot(only=server) if alone else nullcontext():
                await server.client.post(
                    "/v1/embeddings", payload, wanted="data", request_id="", timeout_s=self._options.timeout_s
                )
            server.embeddings = True
        except BackendUnavailable as error:  # asked again the next time
            logger.info("Whether %s embeds is not known yet: %s", server.client.url, error)
        except TaskError as error:
            logger.info("%s does not embed: %s", server.client.url, error)
            server.embeddings = False


class _Broken(Exception):
    """A stream broke after some of it was handed over.

    What was handed over cannot be taken back and another answer would differ: no retry may follow.
    """

    def __init__(self, reason: BackendUnavailable) -> None:
        super().__init__(str(reason))
        self.reason = reason


async def _with_model(request: Json, server: Server, capabilities: Capabilities) -> Json:
    """The request with its model filled in.

    llama.cpp's servers answer for any model name with the model they have; a wrong name is refused here.

    Raises:
        BackendRejected: the server does not list the model.
    """
    model = request.get("model") or capabilities.model
    if capabilities.models and model not in capabilities.models:
        _, listed = kinds.choose_model("", await server.client.model_list(kinds.PROBE_TIMEOUT_S), "")
        if model not in listed:
            raise failures.unknown_model(f"{server.client.url} does not serve the model {model!r}.", listed)
    return {**request, "model": model}


def weakest(found: Sequence[Capabilities]) -> Capabilities:
    """What every server can do; slots add up, for they work side by side."""
    first = found[0]
    slots = [capabilities.slots for capabilities in found]
    lengths = [
        capabilities.context_length for capabilities in found if capabilities.context_length is not None
    ]
    return Capabilities(
        server="+".join(sorted({capabilities.server for capabilities in found})),
        model=first.model,
        models=tuple(model for model in first.models if all(model in other.models for other in found)),
        slots=None if None in slots else sum(slot for slot in slots if slot is not None),
        context_length=min(lengths, default=None),
        structured=min((capabilities.structured for capabilities in found), key=_STRENGTH.index),
        embeddings=all(capabilities.embeddings for capabilities in found),
        tokenizer=all(capabilities.tokenizer for capabilities in found),
    )


_STRENGTH: list[Structured] = ["none", "json_object", "json_schema"]
