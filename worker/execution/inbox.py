"""Between the loop's thread, where messages are taken, and Celery's main thread, where they become tasks."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from celery.utils.log import get_logger
from kombu.asynchronous import Hub

from worker.delivery.deliveries import Deliveries, revoked
from worker.delivery.ledger import Delivery
from worker.execution.bridge import cancel_named

logger = get_logger(__name__)

#: Under this key a message's properties say what delivery knows of it: `token`, `mark`, `deaths`, `tries`,
#: and `first_s`, Unix seconds by this machine's clock when it was first taken from its queue.
DELIVERY = "kc_delivery"

Deliver = Callable[[Any, str], None]


class Inbox:
    """One for a process. All methods but `receive` belong to Celery's main thread.

    Args:
        build: makes the process's `Deliveries`; called when the first queue is consumed.
        result_ttl_s: seconds the outcome of a cancelled task is kept.
    """

    def __init__(self, build: Callable[[], Deliveries], result_ttl_s: int) -> None:
        self._build = build
        self._result_ttl_s = result_ttl_s
        self._deliveries: Deliveries | None = None
        self._waiting: deque[Delivery] = deque()
        self._open: dict[str, Deliver] = {}
        self._drain_is_due = False
        #: Celery's, which runs what is scheduled on its main thread; None until the consumer has one.
        self.hub: Hub | None = None
        #: Told the id of a task that was cancelled, or the token of a delivery that was taken over.
        self.on_cancelled: Callable[[str], None] = lambda _task_id: None
        self.on_lost: Callable[[str], None] = lambda _token: None

    @property
    def deliveries(self) -> Deliveries:
        """What this process holds; taking begins when it is first asked for."""
        if self._deliveries is None:
            self._deliveries = self._build()
            self._deliveries.start(
                self.receive,
                lambda task_id: self._tell(lambda: self.on_cancelled(task_id), task_id),
                lambda held: self._tell(lambda: self.on_lost(held.token), held.task_id, held.token),
            )
        return self._deliveries

    @property
    def now(self) -> datetime:
        """The time by Redis' clock, which all workers share."""
        offset_s = 0.0 if self._deliveries is None else self._deliveries.clock_offset_s
        return datetime.fromtimestamp(time.time() + offset_s, UTC)

    def receive(self, found: list[Delivery]) -> None:
        """Messages have been taken; called on the loop's thread."""
        self._waiting.extend(found)
        self._schedule()

    def open(self, queue: str, deliver: Deliver) -> None:
        """Messages of a queue go to `deliver`, as kombu's payload and the queue's name."""
        self._open[queue] = deliver
        self.deliveries.consume(queue)
        self._schedule()

    def shut(self, queue: str) -> None:
        """Nobody consumes a queue."""
        self._open.pop(queue, None)
        self.deliveries.leave(queue)

    def limit(self, messages: int) -> None:
        """Hold no more than this."""
        self.deliveries.limit(messages)

    def acknowledge(self, token: str) -> None:
        """A task is over."""
        self.deliveries.acknowledge(token)

    def give_back(self, token: str) -> None:
        """A task goes back to its queue, as if it had not been taken."""
        self.deliveries.give_back(token)

    def reject(self, token: str) -> None:
        """A task goes back to its queue after a delivery without an outcome."""
        self.deliveries.reject(token)

    def bury(self, token: str, reason: str) -> None:
        """A message is kept as a dead letter."""
        self.deliveries.bury(token, reason)

    def cancel(self, task_id: str) -> None:
        """Cancel a task wherever it is; returns before it is done."""
        self.deliveries.cancel(task_id, revoked(task_id, self.now.isoformat()), self._result_ttl_s)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give everything back that is not done; waits for Redis a few seconds."""
        if self._deliveries is not None:
            asyncio.run_coroutine_threadsafe(self._deliveries.close(), loop).result()

    def _schedule(self) -> None:
        if self._waiting and self._open and not self._drain_is_due and self.hub is not None:
            self._drain_is_due = True
            self.hub.call_soon(self._drain)

    def _drain(self) -> None:
        self._drain_is_due = False
        while self._waiting and self._open:
            found = self._waiting.popleft()
            if (deliver := self._open.get(found.queue)) is None:  # its consumer was cancelled meanwhile
                self.give_back(found.token)
                continue
            try:
                deliver(_payload(found), found.queue)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                logger.error("Put a message of %s aside that is no task: %r", found.queue, error)
                self.bury(found.token, f"It cannot be read as a Celery message: {error!r}.")

    def _tell(self, what: Callable[[], None], task_id: str, token: str = "") -> None:
        """Have Celery's thread hear of a task, or of one delivery; what it was not given goes no further."""

        def tell() -> None:
            for found in [found for found in self._waiting if found.task_id == task_id]:
                if token in {"", found.token}:
                    self._waiting.remove(found)
                    self.acknowledge(found.token)
            what()

        if not cancel_named(task_id) and self.hub is not None:
            self.hub.call_soon(tell)


def _payload(found: Delivery) -> Any:
    payload = json.loads(found.raw)
    properties = payload["properties"]
    properties["delivery_tag"] = found.token
    properties["delivery_info"] = {
        **(properties.get("delivery_info") or {}),
        "redelivered": bool(found.deaths),
    }
    properties[DELIVERY] = {
        "token": found.token,
        "mark": found.mark,
        "deaths": found.deaths,
        "tries": found.tries,
        "first_s": time.time() - found.waited_s,
    }
    if payload.get("headers"):
        payload["headers"].pop("eta", None)  # it is due
    return payload
