"""One `Backend` over one server or several: balancing, waiting for readiness, retries and deadlines.

A server that is down, loading, full or hangs costs a task no attempt: the task waits, its deadline running.
Only an answer that failed is tried again, a few times, on another server where there is one.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

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
    ServerLoad,
    State,
    Structured,
)
from worker.backends.gate import Gate, Slot
from worker.backends.lanes import Lane
from worker.backends.openai_compatible import Answer, OpenAIClient
from worker.backends.server import Server
from worker.backends.usage import with_usage
from worker.backends.watch import Watcher
from worker.errors import BackendRejected, BackendUnavailable, DeadlineExceeded, TaskError

logger = logging.getLogger(__name__)

#: Failed answers a task puts up with, and the waits between them (full jitter), seconds.
ATTEMPTS = 5
LEAST_WAIT_S, MOST_WAIT_S = 0.1, 5.0
#: Requests that failed with their whole server: more of them and the task may be what breaks it.
MOST_SPARED = 20
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
        self._watcher = Watcher(kind, options, self._gate)

    async def chat(self, request: Json, context: CallContext, on_chunk: OnChunk | None = None) -> Reply:
        """As `Backend.chat` says."""
        handed_over = False

        def hand_over(chunk: Chunk) -> None:
            nonlocal handed_over
            handed_over = True
            if on_chunk is not None:
                on_chunk(chunk)

        async def send(server: Server, capabilities: Capabilities) -> Answer:
            payload = await _with_model(request, server, capabilities)
            payload = await self._kind.adapted(server.client, capabilities, payload, context.adapter)
            try:
                answer = await server.client.chat(
                    payload,
                    request_id=context.task_id,
                    timeout_s=self._options.timeout_s,
                    stream=self._kind.needs_stream(capabilities, payload),
                    on_chunk=None if on_chunk is None else hand_over,
                )
            except BackendUnavailable as error:
                if handed_over:
                    raise _Broken(error) from error
                raise
            return await with_usage(self._kind, server.client, capabilities, payload, answer)

        return await self._call(send, context)

    async def complete(self, request: Json, context: CallContext, on_chunk: OnChunk | None = None) -> Reply:
        """As `Backend.complete` says."""
        return await self.chat(request, context, on_chunk)

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
            async with self._bounded(context), self._slot_if_alone(Lane.of(context.lane)) as server:
                if server.capabilities is not None and server.capabilities.tokenizer:
                    timeout_s = min(TOKENIZE_TIMEOUT_S, self._options.timeout_s)
                    return await self._kind.count_tokens(server.client, server.capabilities, texts, timeout_s)
        except TaskError as error:
            logger.info("Token counts are estimated: %s", error)
        return [tokens.estimate(text) for text in texts]

    async def capabilities(self, context: CallContext) -> Capabilities:
        """As `Backend.capabilities` says; a server that was never reached does not count."""
        async with self._bounded(context):
            self._watcher.start()
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
        return list(await asyncio.gather(*map(self._watcher.probe, self._gate.servers)))

    def capacity(self) -> int:
        """As `Backend.capacity` says."""
        return self._gate.capacity()

    def on_capacity_change(self, callback: Callable[[], None]) -> None:
        """As `Backend.on_capacity_change` says."""
        self._bind()
        self._gate.listeners.append(callback)
        self._watcher.start()

    def load(self) -> list[ServerLoad]:
        """As `Backend.load` says."""
        return self._gate.loads()

    async def aclose(self) -> None:
        """Stop watching and close all connections."""
        asking = [server.asking for server in self._gate.servers if server.asking is not None]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, self._watcher.aclose(), return_exceptions=True)
        await asyncio.gather(*(server.client.aclose() for server in self._gate.servers))

    async def _call(self, send: Send, context: CallContext) -> Reply:
        """One answer, whatever it takes within the rules at the top of this file."""
        lane = Lane.of(context.lane)
        attempts, spared, wait_s = 0, 0, 0.0
        failed_on: Server | None = None
        last_failure: TaskError | None = None
        turned_away = False  # else it is fair to wait again: it may be this request that breaks the server

        async def attempt() -> Reply:
            nonlocal attempts, spared, wait_s, failed_on, last_failure, turned_away
            while True:
                asked_at = time.monotonic()
                self._watcher.start()
                async with self._slot(
                    lane, avoid=failed_on, first=turned_away, affinity=context.affinity
                ) as slot:
                    wait_s += slot.sent_at - asked_at
                    attempts += 1
                    self._watcher.listen(slot.server)
                    try:
                        answer = await send(slot.server, slot.server.known)
                    except (BackendUnavailable, _Broken) as error:
                        failed_on = slot.server
                        last_failure = reason = error.reason if isinstance(error, _Broken) else error
                        turned_away = reason.server_down or reason.retry_after_s is not None
                        spared += not turned_away
                        not_its_fault = await self._watcher.blame(slot, reason, context.task_id)
                        if isinstance(error, _Broken) or not not_its_fault or spared > MOST_SPARED:
                            raise
                    except TaskError:
                        slot.server.heard(time.monotonic())
                        raise
                    else:
                        self._gate.answered(slot, _work(answer))
                        return Reply(
                            answer.body,
                            slot.server.client.url,
                            answer.ttft_s,
                            answer.total_s,
                            wait_s,
                            attempts,
                        )

        try:
            async with self._bounded(context):
                return await _with_retries(attempt)
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
        self,
        lane: Lane,
        *,
        avoid: Server | None = None,
        only: Server | None = None,
        first: bool = False,
        affinity: str = "",
    ) -> AsyncIterator[Slot]:
        slot = await self._gate.take(lane, avoid=avoid, only=only, first=first, affinity=affinity)
        try:
            yield slot
        finally:
            self._gate.give_back(slot)

    @asynccontextmanager
    async def _slot_if_alone(self, lane: Lane) -> AsyncIterator[Server]:
        """A ready server for a small question; with a slot only where the question would disturb a chat."""
        self._watcher.start()
        server = await self._gate.ready()
        if self._kind.takes_one_at_a_time(server.known):
            async with self._slot(lane) as slot:
                yield slot.server
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
            async with self._slot(Lane.INTERACTIVE, only=server) if alone else nullcontext():
                await server.client.post(
                    "/v1/embeddings", payload, wanted="data", request_id="", timeout_s=self._options.timeout_s
                )
            server.embeddings = True
        except BackendUnavailable as error:  # asked again the next time
            logger.info("Whether %s embeds is not known yet: %s", server.client.url, error)
        except TaskError as error:
            logger.info("%s does not embed: %s", server.client.url, error)
            server.embeddings = False


async def _with_retries(attempt: Callable[[], Awaitable[Reply]]) -> Reply:
    """The first answer of a few attempts; between them a random wait that may double each time.

    Written out, because a retry object a call took two fifths of a call's CPU time.
    """
    most_wait_s = 2 * LEAST_WAIT_S
    for _ in range(ATTEMPTS - 1):
        try:
            return await attempt()
        except BackendUnavailable:
            await asyncio.sleep(random.uniform(LEAST_WAIT_S, min(most_wait_s, MOST_WAIT_S)))  # noqa: S311
            most_wait_s *= 2
    return await attempt()


class _Broken(Exception):
    """A stream broke after some of it was handed over.

    What was handed over cannot be taken back and another answer would differ: no retry may follow.
    """

    def __init__(self, reason: BackendUnavailable) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _work(answer: Answer) -> float:
    """What an answer brought: the tokens it generated, 1 where it does not say."""
    usage = answer.body.get("usage")
    tokens_generated = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return float(tokens_generated) if isinstance(tokens_generated, int) and tokens_generated > 0 else 1.0


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
        vision=_all_of([capabilities.vision for capabilities in found]),
        chat_template=_all_of([capabilities.chat_template for capabilities in found]),
        tokenizer=all(capabilities.tokenizer for capabilities in found),
        adapters=tuple(one for one in first.adapters if all(one in other.adapters for other in found)),
    )


def _all_of(answers: Sequence[bool | None]) -> bool | None:
    """False where one is, else None where one is not known."""
    return False if False in answers else None if None in answers else True


_STRENGTH: list[Structured] = ["none", "json_object", "json_schema"]
