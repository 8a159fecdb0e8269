"""A real `kc-worker gateway` in a process of its own."""

import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

from worker.local.child import HOST, Child, free_port
from worker.local.environment import environment_with

_START_TIMEOUT_S = 60.0


class LocalGateway(Child):
    """A gateway on 127.0.0.1. The constructor starts it, `wait_ready` waits until it answers.

    Args:
        redis_url: where it sends tasks.
        port: to listen on; None: a free one.
        env: more settings, by their environment names.
        directory: folder for its log and its working directory; None: a temporary one.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        settings = {"REDIS_URL": redis_url, "GATEWAY_PORT": str(self.port), **(env or {})}
        super().__init__(
            "gateway",
            [sys.executable, "-m", "worker", "gateway"],
            directory=directory,
            env=environment_with(settings),
            in_own_directory=True,
        )

    def wait_ready(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Wait until it answers.

        Raises:
            LocalError: it ended or did not answer in `timeout_s` seconds; with the end of its log.
        """
        self.wait_until(self._answers, timeout_s)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/health/live", timeout=5):  # noqa: S310
                return True
        except (URLError, ConnectionError):
            return False
