"""What the scripted server remembers of its requests, and what it writes down before it is killed."""

import json
import os
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from worker.backends.base import Json

Outcome = Literal["running", "answered", "faulted", "disconnected"]


@dataclass(eq=False, slots=True)
class Seen:
    """One request as the server saw it.

    Attributes:
        number: counts the requests.
        path: of the URL.
        request_id: the `x-request-id` header.
        body: the JSON body; None for GET, or where bodies are not kept.
        api_key: the bearer token; "" where there was none.
        outcome: "running", "answered", "faulted" (a scripted fault ran to its end), or "disconnected": the
            client hung up first.
        started_s: `time.monotonic()` at its arrival; the same clock in all processes of a machine.
        ended_s: `time.monotonic()` at its end; None while it runs.
    """

    number: int
    path: str
    request_id: str
    body: Json | None
    api_key: str = ""
    outcome: Outcome = "running"
    started_s: float = 0.0
    ended_s: float | None = None

    def told(self) -> Json:
        """As GET /_seen says it."""
        return {name: getattr(self, name) for name in self.__slots__}


class Memory:
    """The last requests.

    Args:
        keep: how many.
        bodies: whether with their bodies.
        record: a file that gets a line at each request's beginning and end, for a kill -9; "" for none.
    """

    def __init__(self, keep: int = 10_000, *, bodies: bool = True, record: str = "") -> None:
        self.requests: deque[Seen] = deque(maxlen=keep)
        self.total = self.in_flight = self.most_in_flight = 0
        self._bodies = bodies
        self._record = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if record else None

    def begin(self, path: str, request_id: str, body: Json | None, api_key: str = "") -> Seen:
        """A request came."""
        kept = body if self._bodies else None
        seen = Seen(self.total, path, request_id, kept, api_key, started_s=time.monotonic())
        self.requests.append(seen)
        self.total += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self._write(seen)
        return seen

    def end(self, seen: Seen, outcome: Outcome) -> None:
        """A request ended."""
        seen.outcome, seen.ended_s = outcome, time.monotonic()
        self.in_flight -= 1
        self._write(seen)

    def told(self, after: int = -1) -> Json:
        """As GET /_seen says it: the requests kept whose number is above `after`."""
        return {
            "now_s": time.monotonic(),
            "total": self.total,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "requests": [seen.told() for seen in self.requests if seen.number > after],
        }

    def close(self) -> None:
        """Close the record."""
        if self._record is not None:
            os.close(self._record)
            self._record = None

    def _write(self, seen: Seen) -> None:
        if self._record is not None:
            line = {name: value for name, value in seen.told().items() if name != "body"}
            os.write(self._record, json.dumps(line).encode() + b"\n")
