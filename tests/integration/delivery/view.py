"""What there is of delivery in Redis at one moment, and what has to be true of it at every moment."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import redis

from tests.integration.delivery.messages import PRIORITIES, QUEUES

LISTS = [queue + suffix for queue in QUEUES for suffix in PRIORITIES]
#: What may be left when there is no work: counters that end by themselves, and the workers' last reports.
REMAINS = {b"kc:token", b"kc:turn", b"kc:sweep", b"kc:workers", b"kc:heads"}


@dataclass(frozen=True)
class View:
    """Attributes as `common.lua` names the keys; messages are bytes."""

    queues: list[bytes]
    held: dict[bytes, bytes]
    info: dict[bytes, list[Any]]
    lease: dict[bytes, float]
    run: dict[bytes, bytes]
    copies: dict[bytes, list[bytes]]
    suspects: list[bytes]
    delayed: dict[bytes, float]
    delayed_messages: dict[bytes, list[Any]]
    dead: dict[bytes, float]
    dead_entries: dict[bytes, dict[str, Any]]
    history: dict[bytes, dict[str, Any]]
    outcomes: dict[bytes, bytes]
    keys: set[bytes]

    @classmethod
    def of(cls, client: "redis.Redis") -> "View":
        keys = set(client.keys("*"))
        several = [key for key in sorted(keys) if key.startswith((b"kc:copies:", b"kc:suspects:"))]
        results = [key for key in sorted(keys) if key.startswith(b"celery-task-meta-")]
        pipe = client.pipeline(transaction=False)
        for key in [*LISTS, *several]:
            pipe.lrange(key, 0, -1)
        for key in (
            "kc:held",
            "kc:held:info",
            "kc:run",
            "kc:delayed:messages",
            "kc:dead:entries",
            "kc:history",
        ):
            pipe.hgetall(key)
        for key in ("kc:lease", "kc:delayed", "kc:dead"):
            pipe.zrange(key, 0, -1, withscores=True)
        for key in results:
            pipe.get(key)
        found = iter(pipe.execute())
        queues = [raw for _ in LISTS for raw in next(found)]
        lists = {key: [_loads(pair)[1] for pair in next(found)] for key in several}
        held, info, run, delayed_messages, entries, history = (next(found) for _ in range(6))
        lease, delayed, dead = (dict(next(found)) for _ in range(3))
        return cls(
            queues=queues,
            held=held,
            info={token: _loads(value) for token, value in info.items()},
            lease=lease,
            run=run,
            copies={key[len(b"kc:copies:") :]: raws for key, raws in lists.items() if b":copies:" in key},
            suspects=[raw for key, raws in lists.items() if b":suspects:" in key for raw in raws],
            delayed=delayed,
            delayed_messages={name: _loads(value) for name, value in delayed_messages.items()},
            dead=dead,
            dead_entries={name: _entry(value) for name, value in entries.items()},
            history={name: json.loads(value) for name, value in history.items()},
            outcomes={key[len(b"celery-task-meta-") :]: next(found) for key in results},
            keys=keys,
        )

    @property
    def moving(self) -> Counter[bytes]:
        """How often each message is somewhere from where it will come to a worker."""
        return Counter(
            [*self.queues, *self.held.values(), *self.suspects]
            + [raw for raws in self.copies.values() for raw in raws]
            + [raw for _, raw, _ in self.delayed_messages.values()]
        )

    @property
    def places(self) -> Counter[bytes]:
        """How often each message is anywhere."""
        return self.moving + Counter(entry["raw"] for entry in self.dead_entries.values())

    def check(self, id_of: dict[bytes, bytes]) -> None:
        """What is true whatever was done.

        Args:
            id_of: task id of every message there ever was.
        """
        assert set(self.held) == set(self.info) == set(self.lease), "a delivery is held, described and leased"
        running = [(value[0].encode(), token) for token, value in self.info.items()]
        assert dict(running) == self.run, "each live delivery has the claim on its task"
        assert len(running) == len(self.run), "a task has one live delivery"
        assert set(self.delayed) == set(self.delayed_messages), "what is delayed has its message"
        assert set(self.dead) == set(self.dead_entries), "what is dead has its entry"
        moving = {id_of[raw] for raw in self.moving}
        assert not set(self.history) - moving, "a history belongs to a task that is still somewhere"
        alive = set(self.run) | {
            id_of[raw]
            for raw in [*self.queues, *self.suspects, *(row[1] for row in self.delayed_messages.values())]
        }
        assert not set(self.copies) - alive, "copies wait for a task that is still somewhere"
        doubled = {raw: count for raw, count in self.places.items() if count > 1}
        assert not doubled, "a message is in one place"


def _loads(value: bytes) -> list[Any]:
    """JSON of the scripts, which keeps bytes as they are; messages as bytes again."""
    found = json.loads(value.decode("utf-8", "surrogateescape"))
    if len(found) > 1 and isinstance(found[1], str):
        found[1] = found[1].encode("utf-8", "surrogateescape")
    return list(found)


def _entry(value: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(value.decode("utf-8", "surrogateescape"))
    return entry | {"raw": entry["raw"].encode("utf-8", "surrogateescape")}
