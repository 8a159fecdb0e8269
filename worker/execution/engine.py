"""What makes a Celery app deliver, run and store as this project promises."""

from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery

from worker.delivery.deliveries import Deliveries
from worker.execution import transport
from worker.execution.inbox import Inbox
from worker.execution.pool import chosen_pool
from worker.redis_client import (
    CONNECT_TIMEOUT_S,
    HEALTH_CHECK_INTERVAL_S,
    SOCKET_TIMEOUT_S,
    RedisAddress,
)


def equip(
    app: Celery,
    redis: RedisAddress,
    arguments: Sequence[str],
    build: Callable[[], Deliveries],
    *,
    concurrency: int,
    result_ttl_s: int,
    grace_s: float,
) -> None:
    """Configure a Celery app.

    Args:
        app: any Celery app; its tasks run late-acknowledged.
        redis: broker and result store.
        arguments: the command line, which may name another pool.
        build: makes the process's `Deliveries`.
        concurrency: tasks one process holds, on our pool.
        result_ttl_s: seconds an outcome is kept.
        grace_s: seconds running tasks get at shutdown, on our pool.
    """
    sentinel = "Sentinel" if redis.is_sentinel else ""
    pool = chosen_pool(arguments)
    inbox = Inbox(build, result_ttl_s)
    settings: dict[str, Any] = {
        "broker_url": redis.broker_url,
        "broker_transport": f"worker.execution.transport:{sentinel}Transport",
        "result_backend": f"worker.execution.results:{sentinel}ResultStore+{redis.result_url}",
        "result_expires": result_ttl_s,
        # Found there by our own classes, which Celery makes.
        "redis_address": redis,
        "inbox": inbox,
        "shutdown_grace_s": grace_s,
        "worker_pool": pool,
        "worker_consumer": "worker.execution.consumer:Consumer",
        # It counts tasks; as a number of processes it would be absurd: there, as many as CPUs.
        "worker_concurrency": None if pool == "prefork" else concurrency,
        "worker_prefetch_multiplier": 1,
        # A message is acknowledged when its result is stored.
        "task_acks_late": True,
        # Only there can a task take its process with it and leave the worker alive.
        "task_reject_on_worker_lost": pool == "prefork",
        # A lost connection disturbs nothing that runs: deliveries are this process's until their leases end.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_prefetch_count_reduction": False,
        # Redis may be away for as long as it takes.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": HEALTH_CHECK_INTERVAL_S,
            "max_connections": 50,
            "master_name": redis.sentinel_master,
        },
        "result_backend_transport_options": {"master_name": redis.sentinel_master},
        "redis_socket_timeout": SOCKET_TIMEOUT_S,
        "redis_socket_connect_timeout": CONNECT_TIMEOUT_S,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": HEALTH_CHECK_INTERVAL_S,
    }
    app.conf.update(settings)
    transport.serve(inbox)
    app.Task.Request = "worker.execution.consumer:Request"
