"""A real `celery -A worker worker` in a process of its own."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from worker.local.child import HOST, Child, free_port
from worker.local.environment import environment_with

_READY = re.compile(r"@\S+ ready\.")
_START_TIMEOUT_S = 60.0


class LocalWorker(Child):
    """A worker process. The constructor starts it, `wait_ready` waits until it takes tasks.

    It reads neither the settings of this process nor a `.env`: only what is given here.

    Args:
        redis_url: broker and result store.
        llm_url: base URL of the model server.
        backend: which kind of server that is.
        env: more settings, by their environment names.
        args: more arguments for `celery -A worker worker`.
        directory: folder for its log and its working directory; None: a temporary one.
        launcher: what Python runs as Celery's program.
    """

    def __init__(
        self,
        redis_url: str,
        llm_url: str,
        *,
        backend: str = "llamacpp",
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        directory: Path | None = None,
        launcher: Sequence[str] = ("-m", "celery"),
    ) -> None:
        self.health_port = free_port()
        self.health_url = f"http://{HOST}:{self.health_port}"
        settings = {
            "REDIS_URL": redis_url,
            "LLM_BACKEND": backend,
            "LLM_SERVER_URL": llm_url,
            "WORKER_HEALTH_PORT": str(self.health_port),
            **(env or {}),
        }
        command = [sys.executable, *launcher, "-A", "worker", "worker", "--loglevel=info", *args]
        super().__init__(
            "worker", command, directory=directory, env=environment_with(settings), in_own_directory=True
        )

    def wait_ready(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Wait until it takes tasks.

        Raises:
            LocalError: it ended or was not ready in `timeout_s` seconds; with the end of its log.
        """
        self.wait_until(lambda: _READY.search(self.log()) is not None, timeout_s)
