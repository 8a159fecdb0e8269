"""Celery messages in quantity: a few are written by Celery itself, the others are copies under other ids."""

import json
import uuid
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import redis
from celery import Celery

#: Messages a round trip.
_AT_ONCE = 1000
_PLACE = b"{id}"


class Messages:
    """Messages for one task in one queue.

    Args:
        url: the broker.
        task: name of the task.
        kwargs: its keyword arguments, several for messages that take turns.
        queue: where they go.
    """

    def __init__(self, url: str, task: str, kwargs: Sequence[dict[str, Any]], queue: str = "celery") -> None:
        self._queue = queue
        self._client = redis.Redis.from_url(url)
        scratch = f"bench-{uuid.uuid4()}"
        with Celery(broker=url, set_as_current=False) as app:
            for each in kwargs:
                app.send_task(task, kwargs=each, queue=scratch)
        found: Any = self._client.lrange(scratch, 0, -1)[::-1]
        bindings = (f"_kombu.{kind}.{scratch}" for kind in ("binding", "binding_permanent"))
        self._client.delete(scratch, *bindings)
        written = [message.replace(scratch.encode(), queue.encode()) for message in found]
        self._templates = cycle(map(_template, written))
        self._ids = str(uuid.uuid4())[:-12]
        self._pushed = 0

    def push(self, count: int) -> None:
        """Put so many more into the queue, behind those that are there."""
        for messages in self._batches(count):
            self._client.lpush(self._queue, *messages)

    def is_mine(self, task_id: str) -> bool:
        """Whether a task is one of these."""
        return task_id.startswith(self._ids)

    def close(self) -> None:
        """Close its connection."""
        self._client.close()

    def _batches(self, count: int) -> Iterator[list[bytes]]:
        until = self._pushed + count
        while self._pushed < until:
            numbers = range(self._pushed, min(until, self._pushed + _AT_ONCE))
            ids = (f"{self._ids}{number:012x}".encode() for number in numbers)
            templates = islice(self._templates, len(numbers))
            yield [template.replace(_PLACE, new) for new, template in zip(ids, templates, strict=True)]
            self._pushed = numbers.stop


def _template(message: bytes) -> bytes:
    """The message with a mark where its ids were: the task's own, and that of its delivery."""
    written = json.loads(message)
    for found in (written["headers"]["id"], written["properties"]["delivery_tag"]):
        message = message.replace(found.encode(), _PLACE)
    return message
