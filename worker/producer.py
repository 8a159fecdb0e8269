"""A producer: sends tasks by name and follows them, with plain Celery and JSON like any other service."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import redis
from celery import Celery, chain
from celery.canvas import Signature
from kombu.exceptions import OperationalError

from worker.delivery.asking import cancel_tasks, unusable
from worker.delivery.states import Update, read_state
from worker.redis_client import CONNECT_TIMEOUT_S, SOCKET_TIMEOUT_S, RedisAddress
from worker.storage.texts import Texts

Json = dict[str, Any]

_POLL_S = 0.05
#: Seconds the rest of a chain has to end once one of its tasks has failed: failures are stored one by one.
_AFTER_FAILURE_S = 2.0
#: Room in a message for what Celery adds to the arguments.
_ENVELOPE_BYTES = 4096


@dataclass(slots=True)
class Sent:
    """A task on its way.

    Attributes:
        id: Celery's task id.
        name: the task's name.
        kwargs: what it was sent with.
        sent_s: `time.monotonic()` when it was sent.
        latest: what is known of it.
        ended_s: `time.monotonic()` when it was seen to have ended; None before.
    """

    id: str
    name: str
    kwargs: Json
    sent_s: float = field(default_factory=time.monotonic)
    latest: Update = field(default_factory=lambda: Update("PENDING"))
    ended_s: float | None = None

    @property
    def wall_s(self) -> float:
        """Seconds from sending to the end, or until now."""
        return (self.ended_s or time.monotonic()) - self.sent_s


class Producer:
    """Sends tasks to one Redis and follows them.

    Args:
        address: the broker and result store.
        result_ttl_s: seconds it is known that a task was cancelled.

    Raises:
        LocalError: from any method, when Redis cannot be reached.
    """

    def __init__(self, address: RedisAddress, result_ttl_s: int = 86400) -> None:
        self.address = address
        self._result_ttl_s = result_ttl_s
        self._app = Celery("kc-worker", broker=address.broker_url, set_as_current=False)
        # Results are read from an app of their own: one that also sends would subscribe to each of them.
        self._store = Celery("kc-worker-results", backend=address.result_url, set_as_current=False)
        timeouts = {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_timeout": SOCKET_TIMEOUT_S}
        self._app.conf.update(
            task_publish_retry=False,
            broker_transport_options={**timeouts, "master_name": address.sentinel_master},
        )
        self._store.conf.update(
            result_backend_transport_options={"master_name": address.sentinel_master},
            redis_socket_connect_timeout=CONNECT_TIMEOUT_S,
            redis_socket_timeout=SOCKET_TIMEOUT_S,
        )

    def send(self, name: str, kwargs: Json, queue: str = "default") -> Sent:
        """Put one task in a queue."""
        task_id = self._reach(
            lambda: self._app.send_task(name, kwargs=kwargs, queue=queue, headers=_headers()).id
        )
        return Sent(task_id, name, kwargs)

    def send_chain(self, tasks: Sequence[tuple[str, Json]], queue: str = "default") -> list[Sent]:
        """Put tasks in a queue, each fed with the text of the one before it."""
        result = self._reach(lambda: chain(*(self._signature(*task, queue) for task in tasks)).apply_async())
        ids: list[str] = []
        while result is not None:
            ids.insert(0, result.id)
            result = result.parent
        return [Sent(task_id, *task) for task_id, task in zip(ids, tasks, strict=True)]

    def follow(self, tasks: Sequence[Sent], on_update: Callable[[], None] = lambda: None) -> None:
        """Watch tasks until all have ended, or one of them has failed and the others had 2 s to.

        What comes after a revoked task of a chain never ends. `on_update` is called every 50 ms.
        """
        while True:
            for task in tasks:
                if task.ended_s is None:
                    task.latest = self._reach(self._look, task.id)
                    if task.latest.ended:
                        task.ended_s = time.monotonic()
            on_update()
            failed_s = [task.ended_s for task in tasks if task.latest.failed and task.ended_s is not None]
            if all(task.latest.ended for task in tasks):
                return
            if failed_s and time.monotonic() - min(failed_s) > _AFTER_FAILURE_S:
                return
            time.sleep(_POLL_S)

    def cancel(self, task_id: str) -> str:
        """Cancel a task wherever it is; it ends REVOKED, whether a worker is there or not.

        Returns:
            "running", "waiting" (queued, delayed, or not known here), or the outcome it has already.
        """
        return cancel_tasks(self.address, [task_id], self._result_ttl_s)[task_id]

    def workers(self, timeout_s: float = 1.0) -> list[str]:
        """Names of the workers that answer within `timeout_s` seconds."""
        answers = self._reach(lambda: self._app.control.ping(timeout=timeout_s))
        return sorted(name for answer in answers or [] for name in answer)

    def close(self) -> None:
        """Close all connections."""
        self._redis.close()
        self._app.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _redis(self) -> "redis.Redis":
        backend: Any = self._store.backend
        client: redis.Redis = backend.client
        return client

    def _signature(self, name: str, kwargs: Json, queue: str) -> Signature[Any]:
        return self._app.signature(name, kwargs=kwargs, queue=queue, headers=_headers())

    def _look(self, task_id: str) -> Update:
        backend: Any = self._store.backend
        return read_state(backend.get(backend.get_key_for_task(task_id)))

    def _reach(self, ask: Callable[..., Any], *args: Any) -> Any:
        try:
            return ask(*args)
        except (redis.RedisError, OperationalError, OSError) as error:
            raise unusable(self.address, error) from error


def fit_message(kwargs: Json, field_name: str, texts: Texts, max_bytes: int) -> tuple[Json, int]:
    """Arguments that fit a message: a text too long for one is kept as a blob and referred to.

    Args:
        kwargs: the task's arguments.
        field_name: the argument that may be replaced.
        texts: where the blob goes; the worker must read the same folder.
        max_bytes: most bytes of one message.

    Returns:
        The arguments, and the size in bytes of the text that became a blob (0: none did).

    Raises:
        InputTooLarge: the text is over the limit for texts.
    """
    text = kwargs.get(field_name)
    if not isinstance(text, str) or len(json.dumps(kwargs)) + _ENVELOPE_BYTES <= max_bytes:
        return kwargs, 0
    return {**kwargs, field_name: {"blob": texts.put(text)}}, len(text.encode())


def _headers() -> Mapping[str, float]:
    """When the task was sent, Unix seconds: the worker reports the wait in `meta.timings.queue_s`."""
    return {"sent_at": time.time()}
