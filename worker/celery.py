"""The Celery app, found by `celery -A worker worker`.

A producer needs none of this: it sends to a task's name with plain Celery.
"""

import gc
import logging
import sys
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from celery.signals import after_setup_logger, worker_process_init, worker_ready
from kombu import Queue

from worker.catalogue_task import CatalogueTask
from worker.errors import SettingsError
from worker.execution.bridge import off_loop, process_loop
from worker.execution.engine import equip
from worker.health import HealthStep
from worker.settings import Settings, settings
from worker.tasks import CATALOGUE
from worker.wiring import build_deliveries, runtime

#: `celery` is where a producer that names no queue sends to; it is served like `default`.
QUEUES = ("interactive", "default", "celery", "batch")


class LoopFriendlyAMQP(AMQP):
    """Publishing from a running task (chains, chords, retries) does not block the loop."""

    def _create_task_sender(self) -> Any:
        send = super()._create_task_sender()  # type: ignore[misc]

        def send_off_loop(*args: Any, **kwargs: Any) -> Any:
            return off_loop(send, *args, **kwargs)

        return send_off_loop


def create_app(chosen: Settings) -> Celery:
    """The worker's app for these settings."""
    app = Celery("worker", amqp=LoopFriendlyAMQP, set_as_current=True)
    equip(
        app,
        chosen.redis.address,
        sys.argv,
        # Children have servers of their own.
        lambda: build_deliveries(
            chosen,
            process_loop(),
            None if app.conf.worker_pool == "prefork" else runtime().backend,
            list(CATALOGUE),
        ),
        concurrency=chosen.worker.worker_concurrency,
        result_ttl_s=chosen.redis.result_ttl_s,
        grace_s=chosen.worker.worker_shutdown_grace_s,
    )
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_default_queue="default",
        task_queues=[Queue(name, routing_key=name) for name in QUEUES],
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


@after_setup_logger.connect
def _one_line_a_task(loglevel: int, **_: Any) -> None:
    """Celery says of every task that it came and how it ended; the second says it all."""
    if loglevel >= logging.INFO:
        logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)


@worker_ready.connect
@worker_process_init.connect
def _look_for_garbage_among_tasks_only(**_: Any) -> None:
    """What is here now stays: looking through it again and again took a third of the CPU time of a task."""
    gc.collect()
    gc.freeze()


try:
    app = create_app(settings())
except SettingsError as error:
    sys.exit(f"kc-worker: {error}")
