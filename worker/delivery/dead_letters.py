"""Dead letters: tasks that were given up, kept until somebody replays or purges them."""

import base64
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from redis.asyncio import Redis

from worker.delivery import keys
from worker.delivery.ledger import Ledger

Json = dict[str, Any]

#: Messages may be long: as many as this are read together.
_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that is not delivered any more.

    Attributes:
        id: the task's id; of a message that is no task, a name made of its content.
        task: the task's name; "" where the message does not say.
        queue: where it was taken from, and where a replay puts it.
        reason: why it was given up.
        since: when, ISO 8601 in UTC.
        deaths: workers that died with it.
        tries: times it was put off to be tried again.
        history: what happened to it, the oldest first: each `event`, `at` (ISO 8601) and what else is known.
        arguments: `{"args": […], "kwargs": {…}}`; None where the message cannot be read.
        message: the message as it was sent; bytes that are not UTF-8 are replaced.
    """

    id: str
    task: str
    queue: str
    reason: str
    since: str
    deaths: int
    tries: int
    history: list[Json]
    arguments: Json | None
    message: str

    @classmethod
    def of(cls, task_id: str, stored: bytes) -> Self:
        """Read an entry as `bury` in `lua/common.lua` writes it, whatever its message is."""
        # The message in it is kept as it came, also where it is not UTF-8.
        entry = json.loads(stored.decode("utf-8", "surrogateescape"))
        message = entry["raw"].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        headers, body = _opened(message)
        return cls(
            id=task_id,
            task=str(headers.get("task") or (body.get("task") if isinstance(body, dict) else None) or ""),
            queue=keys.queue_of(entry["queue"]),
            reason=entry["reason"],
            since=_shown_time(entry["since"]),
            deaths=int(entry["deaths"]),
            tries=int(entry["tries"]),
            history=[_event(note) for note in entry["notes"] or []],
            arguments=_arguments(body),
            message=message,
        )


async def dead_letters(client: Redis) -> AsyncIterator[DeadLetter]:
    """All of them, the oldest first; a few are read at a time. Raises redis-py's errors."""
    ids = await ids_of(client)
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        entries: list[Any] = await client.hmget(keys.DEAD_ENTRIES, some)
        for task_id, stored in zip(some, entries, strict=True):
            if stored is not None:  # replayed or purged meanwhile
                yield DeadLetter.of(task_id, stored)


async def dead_letter(client: Redis, task_id: str) -> DeadLetter | None:
    """One of them; None where there is none of this id."""
    stored: Any = await client.hget(keys.DEAD_ENTRIES, task_id)
    return None if stored is None else DeadLetter.of(task_id, stored)


async def ids_of(client: Redis, older_than_s: float = 0) -> list[str]:
    """The ids of those that have been dead for as long as that, the oldest first."""
    seconds, _ = await client.time()
    before_ms = "+inf" if older_than_s == 0 else f"{(seconds - older_than_s) * 1000:.0f}"
    found: Any = await client.zrangebyscore(keys.DEAD, "-inf", before_ms)
    return [task_id.decode() for task_id in found]


async def replay(client: Redis, ids: Sequence[str]) -> list[str]:
    """Put dead letters back at the end of their queues, without an outcome; returns those that were dead.

    Whoever does it twice, or at the same time as somebody else, puts each back once.
    """
    ledger = Ledger(client)
    return [task_id for task_id in ids if await ledger.replay(task_id)]


async def purge(client: Redis, ids: Sequence[str]) -> list[str]:
    """Delete dead letters; the outcomes of their tasks stay. Returns those that were dead."""
    gone = []
    for task_id in ids:
        async with client.pipeline(transaction=True) as pipe:
            pipe.zrem(keys.DEAD, task_id)
            pipe.hdel(keys.DEAD_ENTRIES, task_id)
            if any(await pipe.execute()):
                gone.append(task_id)
    return gone


def _opened(message: str) -> tuple[Json, Any]:
    """Headers and decoded body of a message; {} and None for what cannot be read."""
    try:
        payload = json.loads(message)
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        return {}, None
    headers: Any = payload.get("headers")
    body: Any = payload.get("body")
    try:
        if (payload.get("properties") or {}).get("body_encoding") == "base64":
            body = base64.b64decode(body)
        body = json.loads(body)
    except (AttributeError, TypeError, ValueError, RecursionError):
        body = None
    return headers if isinstance(headers, dict) else {}, body


def _arguments(body: Any) -> Json | None:
    """Of Celery's second protocol, `[args, kwargs, embed]`, or its first, an object."""
    if isinstance(body, list) and len(body) >= 2:
        return {"args": body[0], "kwargs": body[1]}
    if isinstance(body, dict) and "task" in body:
        return {"args": body.get("args", []), "kwargs": body.get("kwargs", {})}
    return None


def _event(note: Any) -> Json:
    """A line of history. The scripts keep it as the JSON they were given."""
    if isinstance(note, str):
        try:
            note = json.loads(note)
        except ValueError:
            return {"event": note}
    if not isinstance(note, dict):
        return {"event": str(note)}
    return {**note, "at": _shown_time(note["at"])} if isinstance(note.get("at"), int | float) else note


def _shown_time(milliseconds: float) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
