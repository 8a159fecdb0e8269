"""What a ground is made of: a Redis, model servers and workers that can be killed, and who hears of outcomes."""

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.local.celery_worker import LocalWorker
from worker.local.child import HOST, free_port
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted

LAUNCHER = Path(__file__).with_name("inject.py").resolve()
OUTCOMES = ("SUCCESS", "FAILURE", "REVOKED")
RESULT = "celery-task-meta-"


@dataclass
class Submitted:
    """A task handed to Redis.

    Attributes:
        id: Celery's task id.
        at_s: `time.monotonic()` at its submission.
        acknowledged: whether Redis said that it has it; else it may or may not.
    """

    id: str
    at_s: float
    acknowledged: bool = True


@dataclass
class Run:
    """One chat request as a model server saw it; times are `time.monotonic()`."""

    task_id: str
    worker: str
    server: int
    started_s: float
    ended_s: float | None = None
    outcome: str = "running"

    def told(self, since_s: float) -> str:
        end = "" if self.ended_s is None else f" to {self.ended_s - since_s:.3f}"
        return f"{self.started_s - since_s:.3f}{end} s {self.outcome} from {self.worker}"


class FaultyRedis:
    """A Redis with an append-only file that can be killed and come back on the same port and folder.

    `appendfsync always`: with `everysec` Redis itself may lose up to two seconds it has acknowledged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.url = f"redis://{HOST}:{self.port}/0"
        self._server: LocalRedis | None = None
        self.client = redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=10)
        self.start()

    def start(self) -> None:
        """Start it, or start it again with the data it had."""
        self._server = LocalRedis(port=self.port, directory=self._folder, persist=True)
        self._server.wait_ready()
        self.client.connection_pool.disconnect()
        self.client.config_set("appendfsync", "always")

    def kill(self) -> None:
        """Kill -9."""
        assert self._server is not None
        self._server.process.kill()
        self._server.process.wait()
        self._server = None

    def stop(self) -> None:
        self.client.close()
        if self._server is not None:
            self._server.process.kill()
            self._server.stop()


class FaultyServer:
    """A scripted model server that can be killed and come back on the same port."""

    def __init__(self, folder: Path, number: int, kind: str, latency_s: float, **options: int | str) -> None:
        self.number, self.kind = number, kind
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.killed_at: list[float] = []
        self.latency_s = latency_s  #: From its next start on.
        self._folder, self._options = folder, options
        self._logs: list[ServerLog] = []
        self.start()

    def start(self) -> None:
        record = self._folder / f"server-{self.number}-{len(self._logs)}.jsonl"
        self._logs.append(ServerLog(record))
        options: dict[str, Any] = {"bodies": 0, **self._options, "port": self.port, "record": str(record)}
        self.process = LocalScripted(self.kind, latency_s=self.latency_s, **options)  # type: ignore[arg-type]
        self.process.url = self.url
        self.process.wait_ready()

    def kill(self) -> None:
        """Kill -9."""
        self.process.process.kill()
        self.process.process.wait()
        self.killed_at.append(time.monotonic())
        self.process.stop()

    def script(self, *faults: dict[str, Any]) -> None:
        self.process.script(*faults)

    def clear(self) -> None:
        self.process.clear()

    def runs(self) -> list[Run]:
        """Its chat requests, in all of its lives."""
        for life, log in enumerate(self._logs):
            killed_at = self.killed_at[life] if life < len(self.killed_at) else None
            log.read(killed_at, self.number)
        return [run for log in self._logs for run in log.runs.values()]


class ServerLog:
    """The record of one life of a model server, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.runs: dict[int, Run] = {}
        self._path = path
        self._read_to = 0

    def read(self, killed_at: float | None, server: int) -> None:
        """Read on; what still ran when the server was killed ended then."""
        with self._path.open("rb") as record:
            record.seek(self._read_to)
            for line in record:
                if not line.endswith(b"\n"):
                    break
                self._read_to += len(line)
                self._note(json.loads(line), server)
        if killed_at is not None:
            for run in self.runs.values():
                if run.ended_s is None:
                    run.ended_s, run.outcome = killed_at, "server killed"

    def _note(self, said: dict[str, Any], server: int) -> None:
        if said["path"] != "/v1/chat/completions":
            return
        new = Run(said["request_id"], said["api_key"], server, said["started_s"])
        run = self.runs.setdefault(said["number"], new)
        run.ended_s, run.outcome = said["ended_s"], said["outcome"]


class FaultyWorker(LocalWorker):
    """A worker process that notes when it was ended.

    Attributes:
        label: its name; the model server sees it as the bearer token.
        gone_at: `time.monotonic()` when this side ended it or saw it ended; None while it lives.
        broken_off_at: when it may have left its runs without dying (a takeover is then no fault of delivery).
    """

    def __init__(
        self,
        label: str,
        redis_url: str,
        llm_url: str,
        backend: str,
        folder: Path,
        settings: Mapping[str, str],
        inject: str,
        clock_offset_s: float,
    ) -> None:
        self.label = label
        self.gone_at: float | None = None
        self.broken_off_at: float | None = None
        env = {"LLM_API_KEY": label, **settings}
        env |= {"KC_INJECT": inject, "KC_CLOCK_OFFSET_S": str(clock_offset_s)}
        if code := os.environ.get("FAULT_CODE"):  # another version of the worker, to see what it does
            env["PYTHONPATH"] = code
        super().__init__(
            redis_url,
            llm_url,
            backend=backend,
            env=env,
            args=["--without-mingle", "--without-gossip", "-n", f"{label}@%h"],
            directory=folder / label,
            launcher=[str(LAUNCHER)],
        )

    def kill(self) -> None:
        """Kill -9, whatever it does now."""
        self.gone_at = time.monotonic()
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_end(self, timeout_s: float) -> float:
        """Wait until it has ended by itself, or by injection; seconds that took."""
        began = time.monotonic()
        self.process.wait(timeout_s)
        self.gone_at = time.monotonic()
        return self.gone_at - began

    def usage(self) -> dict[str, int]:
        """Its memory (bytes), file descriptors and threads."""
        seen = psutil.Process(self.pid)
        return {"memory": seen.memory_info().rss, "files": seen.num_fds(), "threads": seen.num_threads()}


class Announcements:
    """Counts the outcomes announced for each task (whoever stores one publishes it)."""

    def __init__(self, port: int) -> None:
        self.outcomes: dict[str, list[str]] = {}
        self._port = port
        self._over = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="announcements", daemon=True)
        self._thread.start()
        self._listening.wait(10)

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._over.is_set():
            client = redis.Redis(port=self._port, retry=Retry(NoBackoff(), 0))
            pubsub = client.pubsub(ignore_subscribe_messages=True)
            try:
                pubsub.psubscribe(RESULT + "*")
                self._listening.set()
                while not self._over.is_set():
                    if (message := pubsub.get_message(timeout=0.2)) is None:
                        continue
                    meta = json.loads(message["data"])
                    if meta["status"] in OUTCOMES:
                        self.outcomes.setdefault(meta["task_id"], []).append(meta["status"])
            except (redis.RedisError, OSError):
                self._over.wait(0.1)
            finally:
                pubsub.close()
                client.close()
