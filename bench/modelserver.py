"""`bench.server` in a process of its own."""

import json
import sys
import urllib.request
from typing import Any
from urllib.error import URLError

from worker.local.child import HOST, Child, free_port


class BenchServer(Child):
    """A model server with a fixed latency on 127.0.0.1.

    Args:
        options: those of `python -m bench.server`, for example `latency=0.2`.
    """

    def __init__(self, **options: float | str) -> None:
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        super().__init__("server", [sys.executable, "-m", "bench.server", "--port", str(port), *flags])

    def wait_ready(self) -> None:
        """Wait until it listens; raises LocalError where it does not."""
        self.wait_until(self._listens, 30.0)

    def counts(self) -> dict[str, int]:
        """Since `forget`: `answered` and `most_in_flight`; now: `in_flight`."""
        found: dict[str, int] = self._get("/_counts")
        return found

    def moments(self) -> dict[str, tuple[float, float, float]]:
        """Task id → when its chat arrived, got a slot and was answered, `time.monotonic()`; 0: not yet."""
        found: dict[str, tuple[float, float, float]] = self._get("/_moments")
        return found

    def forget(self) -> None:
        """Count from here."""
        self._get("/_forget")

    def _listens(self) -> bool:
        try:
            self._get("/health")
        except (URLError, ConnectionError):
            return False
        return True

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.loads(answer.read())
