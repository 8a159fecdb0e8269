"""A task of the catalogue as Celery runs it: limits, retries, results of others, and the account of it."""

import asyncio
import random
import time
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any

from celery import Task
from celery.exceptions import Ignore, SoftTimeLimitExceeded, TimeLimitExceeded

from worker import __version__, metrics
from worker.backends.base import CallContext, Json
from worker.contracts.base import Options
from worker.delivery.ledger import persist
from worker.delivery.once import fingerprint, first_result
from worker.errors import DeadLettered, DeadlineExceeded, InputTooLarge, TaskError
from worker.execution.bridge import can_sleep, cancellable, run_sync, wait_for
from worker.execution.inbox import DELIVERY
from worker.execution.streaming import StreamWriter
from worker.metrics import of
from worker.tasks import Task as Entry
from worker.tasks.base import Work, feed, options_of, run, said_in
from worker.wiring import runtime

#: Seconds the backend has to say why there is no answer, once the deadline passed.
DEADLINE_SLACK_S = 0.5

#: After a failure that may pass a task is tried again within this, doubling up to the most; seconds.
RETRY_WAIT_S, MOST_RETRY_WAIT_S = 2.0, 300.0


class Shown(Mapping[str, Any]):
    """A task's result as Celery carries it: a dict as JSON, a short line where Celery shows it.

    Of a dict it would make a text of 200 characters, for its log and its events, walking through all of it:
    that took a fifth of the CPU time of a task.
    """

    def __init__(self, result: Json) -> None:
        self._result = result

    def __json__(self) -> Json:
        return self._result

    def __getitem__(self, key: str) -> Any:
        return self._result[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._result)

    def __len__(self) -> int:
        return len(self._result)

    def __repr__(self) -> str:
        meta = self._result["meta"]
        used = meta["usage"]
        tokens = f"{used.get('prompt_tokens', 0)} + {used.get('completion_tokens', 0)} tokens of "
        who = f"{tokens if used else ''}{meta['model']}"
        said = (who, meta["finish_reason"], meta["cached"] and "cached")
        return ", ".join(part for part in said if part)


class CatalogueTask(Task):  # type: ignore[type-arg]
    """A task of the catalogue as Celery runs it, on any pool."""

    abstract = True
    Request = "worker.execution.consumer:Request"
    typing = False
    throws = (TaskError,)  # expected endings: one line in the log, no traceback
    resultrepr_maxsize = 200
    entry: Entry
    backend: Any

    def run(self, *previous: Any, **arguments: Any) -> Shown:
        """Called by Celery's tracer; `previous` is the result of the task before this one in a chain."""
        request = self.request_stack.top
        try:
            performed = self._perform(request, previous, arguments)
            # Our pool sees to limits and cancelling itself; on threads and solo nobody else does.
            return Shown(wait_for(performed if can_sleep() else self._limited(request, performed)))
        except CancelledError:
            raise Ignore from None  # cancelled on a thread: its outcome is stored
        except TaskError as error:
            if error.retryable and _delivery_of(request):
                self._again_or_dead(request, error, options_of(arguments).deadline_s)
            raise

    async def _limited(self, request: Any, performed: Coroutine[Any, Any, Json]) -> Json:
        """Within the limits of the message, or the task's own."""
        hard_s, soft_s = request.timelimit or (None, None)
        soft_s, hard_s = soft_s or self.soft_time_limit, hard_s or self.time_limit
        limit_s = min((limit for limit in (soft_s, hard_s) if limit), default=None)
        try:
            async with asyncio.timeout(limit_s) as bound:
                return await cancellable(request.id, performed)
        except TimeoutError:
            if not bound.expired():
                raise
            raise (
                SoftTimeLimitExceeded(limit_s) if limit_s == soft_s else TimeLimitExceeded(limit_s)
            ) from None

    async def _perform(self, request: Any, previous: tuple[Any, ...], arguments: Json) -> Json:
        name = self.entry.name
        of(metrics.TASKS_STARTED, name).inc()
        outcome = "cancelled"
        with metrics.TASKS_IN_FLIGHT.track_inprogress(), of(metrics.TASK_SECONDS, name).time():
            try:
                result = await self._run(request, previous, arguments)
                outcome = "success"
            except Exception as error:
                outcome = type(error).__name__
                raise
            finally:
                of(metrics.TASKS_ENDED, name, outcome).inc()
        self._account(result)
        return result

    async def _run(self, request: Any, previous: tuple[Any, ...], arguments: Json) -> Json:
        shared = runtime()
        limit = shared.settings.storage.max_message_bytes
        if (size := request.get("body_bytes") or 0) > limit:
            raise InputTooLarge(f"The task message has {size:,} bytes, the limit is {limit:,}.")
        options = options_of(arguments)
        if previous:
            arguments = feed(previous[0], self.entry.contract, arguments)
        parsed = self.entry.contract.parse(arguments)
        queue_s = _since(request.get("sent_at"), self.app.conf.inbox.now.timestamp())
        waited_s = (
            time.time() - _delivery_of(request).get("first_s", time.time()) if queue_s is None else queue_s
        )
        remaining_s = None if options.deadline_s is None else options.deadline_s - waited_s

        async def progress(done: int, total: int, unit: str) -> None:
            meta = {"done": done, "total": total, "unit": unit}
            await run_sync(self.backend.store_result, request.id, meta, "PROGRESS", request=request)

        async with self._stream_of(request, options) as stream:
            work = Work(
                backend=shared.backend,
                call=CallContext(
                    task_id=request.id,
                    deadline=None if remaining_s is None else time.monotonic() + remaining_s,
                    lane=(request.delivery_info or {}).get("routing_key") or "default",
                ),
                tools=shared.tools,
                progress=progress,
                same=partial(self._same, request.id, options),
                queue_s=queue_s,
                on_chunk=None if stream is None else stream.add,
            )
            try:
                async with asyncio.timeout(None if remaining_s is None else remaining_s + DEADLINE_SLACK_S):
                    result = await self._result_of_another(request.id, options, arguments)
                    if result is None:
                        result = await run(self.entry, parsed, work)
            except TimeoutError:
                raise DeadlineExceeded(
                    f"No answer within options.deadline_s = {options.deadline_s:g} s."
                ) from None
            if stream is not None and not stream.began:
                for piece in said_in(result):
                    stream.add(piece)
        return result

    def _stream_of(self, request: Any, options: Options) -> AbstractAsyncContextManager[StreamWriter | None]:
        """Where the task's output goes as it comes; None where nobody asked for it."""
        if not options.stream or not (delivery := _delivery_of(request)):
            return nullcontext()
        ttl_s = runtime().settings.redis.stream_ttl_s
        return StreamWriter(self.backend.ledger, request.id, delivery["token"], ttl_s)

    async def _result_of_another(self, task_id: str, options: Options, arguments: Json) -> Json | None:
        """The result of a task that does the same by its key or its words; None: this one does it."""
        if options.idempotency_key is None and (self.entry.shares or not options.cache):
            return None
        asked = fingerprint(self.entry.name, {**arguments, "options": None}, __version__)
        if options.idempotency_key is not None:
            name = fingerprint("key", options.tenant, options.idempotency_key)
        else:
            name = fingerprint("cache", options.tenant, asked, runtime().settings.backend.llm_model)
        result = await first_result(self.backend.ledger, name, task_id, asked, int(self.backend.expires))
        return result and {**result, "meta": {**result["meta"], "cached": True}}

    async def _same(self, task_id: str, options: Options, name: str) -> Json | None:
        """The result of a task of the same owner that does the work of that name; None: this one does it."""
        key = fingerprint("same", self.entry.name, options.tenant, name)
        result: Json | None = await first_result(
            self.backend.ledger, key, task_id, key, int(self.backend.expires)
        )
        return result

    def _again_or_dead(self, request: Any, error: TaskError, deadline_s: float | None) -> None:
        """Put a task off that failed for a reason that may pass; not for ever, and not beyond its deadline.

        Raises:
            Ignore: it will be tried again.
            DeadLettered: it has been tried often enough.
        """
        group, delivery = runtime().settings.worker, _delivery_of(request)
        tries, spent_s = delivery["tries"] + 1, time.time() - delivery["first_s"]
        if tries > group.task_max_retries or spent_s > group.task_retry_total_s:
            dead = DeadLettered(f"Tried {tries} times in {spent_s:.0f} s. {error}")
            self.backend.bury(dead, request)
            raise dead from error
        delay_s = random.uniform(0, min(MOST_RETRY_WAIT_S, RETRY_WAIT_S * 2.0**tries))  # noqa: S311 - full jitter
        if deadline_s is not None and spent_s + delay_s > deadline_s:
            return
        self.backend.mark_as_retry(request.id, error, request=request)
        note = {"at": round(time.time() * 1000), "event": "put off", "error": str(error), "for_s": delay_s}
        wait_for(persist(lambda: self.backend.ledger.defer(delivery["token"], delay_s, note)))
        raise Ignore from error

    def _account(self, result: Json) -> None:
        name, meta = self.entry.name, result["meta"]
        of(metrics.BACKEND_CALLS, name).inc(meta["attempts"])
        for kind in ("prompt_tokens", "completion_tokens"):
            of(metrics.TOKENS, name, kind.removesuffix("_tokens")).inc(meta["usage"].get(kind, 0))
        if (ttft_s := meta["timings"]["ttft_s"]) is not None:
            of(metrics.TTFT_SECONDS, name).observe(ttft_s)
        if (queue_s := meta["timings"]["queue_s"]) is not None:
            of(metrics.QUEUE_SECONDS, name).observe(queue_s)


def _delivery_of(request: Any) -> Json:
    """What delivery knows of a request's message; {} where it came another way (`apply()`)."""
    found: Json = (request.get("properties") or {}).get(DELIVERY) or {}
    return found


def _since(sent_at: object, now_s: float) -> float | None:
    """Seconds since a producer's `sent_at` header, Unix seconds; never negative, clocks differ."""
    if isinstance(sent_at, int | float):
        return max(0.0, now_s - sent_at)
    return None
