"""The Celery app, found by `celery -A worker worker`.

A producer needs none of this: it sends to a task's name with plain Celery.
"""

import asyncio
import logging
import sys
import time
from typing import Any

from celery import Celery, Task
from celery.app.amqp import AMQP
from kombu import Queue

from worker import metrics
from worker.backends.base import CallContext, Json
from worker.errors import DeadlineExceeded, InputTooLarge, SettingsError, TaskError
from worker.execution.bridge import off_loop, run_sync, wait_for
from worker.execution.pool import chosen_pool
from worker.health import HealthStep
from worker.redis_client import CONNECT_TIMEOUT_S, HEALTH_CHECK_INTERVAL_S, SOCKET_TIMEOUT_S
from worker.settings import Settings, settings
from worker.tasks import CATALOGUE
from worker.tasks import Task as Entry
from worker.tasks.base import Work, feed, options_of, run
from worker.wiring import runtime

#: `celery` is where a producer that names no queue sends to; it is served like `default`.
QUEUES = ("interactive", "default", "celery", "batch")

#: Seconds the backend has to say why there is no answer, once the deadline passed.
DEADLINE_SLACK_S = 0.5


class CatalogueTask(Task):  # type: ignore[type-arg]
    """A task of the catalogue as Celery runs it, on any pool."""

    abstract = True
    Request = "worker.execution.consumer:Request"
    typing = False
    throws = (TaskError,)  # expected endings: one line in the log, no traceback
    resultrepr_maxsize = 200
    entry: Entry

    def run(self, *previous: Any, **arguments: Any) -> Json:
        """Called by Celery's tracer; `previous` is the result of the task before this one in a chain."""
        return wait_for(self._perform(self.request_stack.top, previous, arguments))

    async def _perform(self, request: Any, previous: tuple[Any, ...], arguments: Json) -> Json:
        name = self.entry.name
        metrics.TASKS_STARTED.labels(name).inc()
        outcome = "cancelled"
        with metrics.TASKS_IN_FLIGHT.track_inprogress(), metrics.TASK_SECONDS.labels(name).time():
            try:
                result = await self._run(request, previous, arguments)
                outcome = "success"
            except Exception as error:
                outcome = type(error).__name__
                raise
            finally:
                metrics.TASKS_ENDED.labels(name, outcome).inc()
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
        queue_s = _since(request.get("sent_at"))
        remaining_s = None if options.deadline_s is None else options.deadline_s - (queue_s or 0)

        async def progress(done: int, total: int, unit: str) -> None:
            meta = {"done": done, "total": total, "unit": unit}
            await run_sync(self.backend.store_result, request.id, meta, "PROGRESS", request=request)

        work = Work(
            backend=shared.backend,
            call=CallContext(
                task_id=request.id,
                deadline=None if remaining_s is None else time.monotonic() + remaining_s,
                lane=(request.delivery_info or {}).get("routing_key") or "default",
            ),
            texts=shared.texts,
            progress=progress,
            queue_s=queue_s,
        )
        try:
            async with asyncio.timeout(None if remaining_s is None else remaining_s + DEADLINE_SLACK_S):
                return await run(self.entry, parsed, work)
        except TimeoutError:
            raise DeadlineExceeded(
                f"No answer within options.deadline_s = {options.deadline_s:g} s."
            ) from None

    def _account(self, result: Json) -> None:
        name, meta = self.entry.name, result["meta"]
        metrics.BACKEND_CALLS.labels(name).inc(meta["attempts"])
        for kind in ("prompt_tokens", "completion_tokens"):
            metrics.TOKENS.labels(name, kind.removesuffix("_tokens")).inc(meta["usage"].get(kind, 0))
        if (ttft_s := meta["timings"]["ttft_s"]) is not None:
            metrics.TTFT_SECONDS.labels(name).observe(ttft_s)
        if (queue_s := meta["timings"]["queue_s"]) is not None:
            metrics.QUEUE_SECONDS.labels(name).observe(queue_s)


class LoopFriendlyAMQP(AMQP):
    """Publishing from a running task (chains, chords, retries) does not block the loop."""

    def _create_task_sender(self) -> Any:
        send = super()._create_task_sender()  # type: ignore[misc]

        def send_off_loop(*args: Any, **kwargs: Any) -> Any:
            return off_loop(send, *args, **kwargs)

        return send_off_loop


def create_app(chosen: Settings) -> Celery:
    """The worker's app for these settings."""
    redis = chosen.redis.address
    sentinel = "Sentinel" if redis.is_sentinel else ""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it has an INFO line for every request
    pool = chosen_pool(sys.argv)
    app = Celery("worker", amqp=LoopFriendlyAMQP, set_as_current=True)
    app.conf.update(
        broker_url=redis.broker_url,
        broker_transport=f"worker.execution.transport:{sentinel}Transport",
        result_backend=f"worker.execution.results:{sentinel}ResultStore+{redis.result_url}",
        redis_address=redis,
        result_expires=chosen.redis.result_ttl_s,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        # Which tasks, from where, how many.
        task_default_queue="default",
        task_queues=[Queue(name, routing_key=name) for name in QUEUES],
        worker_pool=pool,
        worker_consumer="worker.execution.consumer:Consumer",
        # It counts tasks; as a number of processes it would be absurd: there, as many as CPUs.
        worker_concurrency=None if pool == "prefork" else chosen.worker.worker_concurrency,
        worker_prefetch_multiplier=1,
        # A message is acknowledged when its result is stored.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # After a reconnect every unacknowledged message is delivered again: its first run must not go on.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_soft_shutdown_timeout=chosen.worker.worker_shutdown_grace_s,
        # Redis may be away for as long as it takes.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": HEALTH_CHECK_INTERVAL_S,
            "unacked_restore_interval": 5,
            "unacked_restore_limit": 1000,
            "max_connections": 50,
            "master_name": redis.sentinel_master,
        },
        result_backend_transport_options={"master_name": redis.sentinel_master},
        redis_socket_timeout=SOCKET_TIMEOUT_S,
        redis_socket_connect_timeout=CONNECT_TIMEOUT_S,
        redis_socket_keepalive=True,
        redis_backend_health_check_interval=HEALTH_CHECK_INTERVAL_S,
    )
    for entry in CATALOGUE.values():
        task = type(
            "CatalogueTask",
            (CatalogueTask,),
            {"name": entry.name, "entry": entry, "__doc__": entry.body.__doc__},
        )
        app.register_task(task())
    app.steps["worker"].add(HealthStep)
    return app


def _since(sent_at: object) -> float | None:
    """Seconds since a producer's `sent_at` header, Unix seconds; never negative, clocks differ."""
    if isinstance(sent_at, int | float):
        return max(0.0, time.time() - sent_at)
    return None


try:
    app = create_app(settings())
except SettingsError as error:
    sys.exit(f"kc-worker: {error}")
