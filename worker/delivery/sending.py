"""Putting tasks in queues for others: as docs/producers.md says, but not more than there is room for.

What is sent belongs to somebody, who alone may ask for it again, and who may have limits.
"""

import base64
import json
import time
import uuid
from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis

from worker.delivery import keys
from worker.delivery.ledger import Json, Ledger

#: Seconds it is known whose a task is while it has no outcome; then as long as that is kept.
OWNER_TTL_S = 30 * 86400

Excess = Literal["queue", "in_flight", "requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one owner may have; 0: as much as he likes.

    Attributes:
        in_flight: tasks that have no outcome yet.
        requests_per_minute: tasks sent.
        tokens_per_minute: tokens of what is asked and what may be answered.
    """

    in_flight: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class Sent:
    """A task that is in its queue.

    Attributes:
        id: of the task.
        requests_left, tokens_left: what the owner's limits leave for this minute; None where there is none.
    """

    id: str
    requests_left: int | None
    tokens_left: int | None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a task that was sent.

    Attributes:
        owner: whose it is.
        task: its name.
        queue: where it was put.
        sent_at: Unix seconds.
        batch: it is a line of this batch; "" for none.
        shared: whether other tasks may ask for its result.
    """

    owner: str
    task: str
    queue: str
    sent_at: float
    batch: str = ""
    shared: bool = False


class TooMuch(Exception):
    """There is no room for a task now.

    Args:
        what: `queue` is full, or the owner has too many `in_flight`, `requests` or `tokens` of the minute.
        retry_after_s: seconds after which it is worth trying again; 0: nobody knows.
    """

    def __init__(self, what: Excess, retry_after_s: float) -> None:
        super().__init__(what)
        self.what = what
        self.retry_after_s = retry_after_s


class Sender:
    """Sends tasks; raises redis-py's errors.

    Args:
        client: of the broker's Redis.
        most_waiting: tasks that may wait in one queue; 0: any number.
    """

    def __init__(self, client: Redis, most_waiting: int = 0) -> None:
        self._client, self._ledger, self.most_waiting = client, Ledger(client), most_waiting

    async def send(
        self, task: str, kwargs: Json, queue: str, owner: str, limits: Limits, tokens: int = 0
    ) -> Sent:
        """Put a task in a queue.

        Args:
            task: name of the task.
            kwargs: its arguments.
            queue: where to.
            owner: whose it is; not empty.
            limits: the owner's.
            tokens: how many count against them.

        Raises:
            TooMuch: there is no room for it now.
        """
        task_id, now = str(uuid.uuid4()), time.time()
        known = {"owner": owner, "task": task, "queue": queue, "sent_at": now}
        said, numbers = await self._ledger.send(
            queue, task_id, envelope(task, task_id, kwargs, queue, now), self.most_waiting, owner,
            json.dumps(known), OWNER_TTL_S, limits.in_flight, limits.requests_per_minute,
            limits.tokens_per_minute, tokens,
        )  # fmt: skip
        if said != "sent":
            raise TooMuch(said, numbers[0] / 1000)  # type: ignore[arg-type]
        left = [None if number < 0 else number for number in numbers]
        return Sent(task_id, *left)

    async def known(self, task_id: str) -> Known | None:
        """Whose a task is; None where it was not sent this way, or long ago."""
        stored = await self._client.get(keys.OWNER % task_id)
        return Known(**json.loads(stored)) if stored else None


def envelope(task: str, task_id: str, kwargs: Json, queue: str, sent_at: float) -> str:
    """A task's message: Celery's protocol 2 in kombu's envelope."""
    body = [[], kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py", "task": task, "id": task_id, "root_id": task_id, "retries": 0,
                "sent_at": sent_at,
            },
            "properties": {
                "correlation_id": task_id, "delivery_tag": task_id, "delivery_mode": 2, "priority": 0,
                "body_encoding": "base64", "delivery_info": {"exchange": "", "routing_key": queue},
            },
        }
    )  # fmt: skip
