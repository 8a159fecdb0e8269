"""The scripted stand-in for a model server, in a process of its own: for tests and benchmarks."""

import json
import sys
import urllib.request
from typing import Any
from urllib.error import URLError

from worker.backends.scripted import ScriptedKind
from worker.local.child import HOST, Child, free_port

_START_TIMEOUT_S = 30.0


class LocalScripted(Child):
    """A scripted server on 127.0.0.1. The constructor starts it, `wait_ready` waits for it.

    Args:
        kind: whose manners it has.
        options: more options of `python -m worker.backends.scripted`, for example `slots=4` or `record=path`.
        latency_s: seconds each answer takes.
    """

    def __init__(
        self, kind: ScriptedKind = "llamacpp", *, latency_s: float = 0.0, **options: int | str
    ) -> None:
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        given = {"kind": kind, "port": port, "latency": latency_s, **options}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        super().__init__("scripted", [sys.executable, "-m", "worker.backends.scripted", *flags])

    def wait_ready(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Wait until it listens.

        Raises:
            LocalError: it ended or did not listen in `timeout_s` seconds; with the end of its log.
        """
        self.wait_until(self._listens, timeout_s)

    def script(self, *faults: dict[str, Any]) -> None:
        """Queue faults, as `worker.backends.scripted_faults` says."""
        self._call("POST", "/_script", list(faults))

    def clear(self) -> None:
        """Forget the faults that are still queued."""
        self._call("DELETE", "/_script")

    def seen(self) -> dict[str, Any]:
        """What it was asked: `requests`, `most_in_flight` and more."""
        seen: dict[str, Any] = self._call("GET", "/_seen")
        return seen

    def _listens(self) -> bool:
        try:
            self.seen()
        except (URLError, ConnectionError):
            return False
        return True

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            content = answer.read()
        return json.loads(content) if content else None
