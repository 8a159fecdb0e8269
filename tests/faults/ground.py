"""The ground a fault is tried on: a Redis, model servers and workers of its own, and a record of what was done."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
from celery import Celery
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.conftest import connected_producer
from worker.local.celery_worker import LocalWorker
from worker.local.child import HOST, free_port
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted
from worker.settings import setting_names

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
        self._folder, self._latency_s, self._options = folder, latency_s, options
        self._logs: list[ServerLog] = []
        self.start()

    def start(self) -> None:
        record = self._folder / f"server-{self.number}-{len(self._logs)}.jsonl"
        self._logs.append(ServerLog(record))
        options: dict[str, Any] = {"bodies": 0, **self._options, "port": self.port, "record": str(record)}
        self.process = LocalScripted(self.kind, latency_s=self._latency_s, **options)  # type: ignore[arg-type]
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


@dataclass
class Ground:
    """Everything a scenario uses; `with opened_ground(folder, seed)` makes it and clears it away.

    Attributes:
        folder: for logs and data.
        random: the scenario's own, seeded.
        submitted: every task handed over, by id.
        may_run_again: ids whose calls may overlap or repeat: a worker was frozen, not dead.
        cancelled: when each task was cancelled.
    """

    folder: Path
    seed: int
    random: random.Random
    redis: FaultyRedis
    producer: Celery
    announcements: Announcements
    servers: list[FaultyServer] = field(default_factory=list)
    workers: list[FaultyWorker] = field(default_factory=list)
    submitted: dict[str, Submitted] = field(default_factory=dict)
    may_run_again: set[str] = field(default_factory=set)
    cancelled: dict[str, float] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)
    _resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def serve(self, kind: str = "vllm", *, latency_s: float = 0.1, **options: int | str) -> FaultyServer:
        """Start a model server."""
        server = FaultyServer(self.folder, len(self.servers), kind, latency_s, **options)
        self.servers.append(server)
        return server

    @property
    def server(self) -> FaultyServer:
        return self.servers[0]

    def work(
        self,
        *,
        inject: str = "",
        clock_offset_s: float = 0,
        redis_url: str = "",
        server: FaultyServer | None = None,
        ready: bool = True,
        **settings: str | float,
    ) -> FaultyWorker:
        """Start a worker; settings by their environment names. It need not find out what its server can bear."""
        settings = {"LLM_MAX_CONCURRENCY": 256, **settings}
        at = server or self.servers[0]
        worker = FaultyWorker(
            f"worker-{len(self.workers)}",
            redis_url or self.redis.url,
            at.url,
            "vllm" if at.kind == "vllm" else "llamacpp",
            self.folder,
            {name: str(value) for name, value in settings.items()},
            inject,
            clock_offset_s,
        )
        self.workers.append(worker)
        if ready:
            worker.wait_ready()
        return worker

    def submit(
        self, count: int = 1, *, words: str = "hello", queue: str = "default", task_id: str = "", **send: Any
    ) -> list[str]:
        """Hand tasks to Redis as other services do; ids of those it acknowledged.

        A failed submission is noted as doubtful and raised.
        """
        ids = []
        for _ in range(count):
            one = task_id or f"{self.random.getrandbits(128):032x}"
            one = f"{one[:8]}-{one[8:12]}-{one[12:16]}-{one[16:20]}-{one[20:]}" if not task_id else one
            options = send.pop("options", None)
            kwargs: dict[str, Any] = {"messages": [{"role": "user", "content": words}]}
            if options:
                kwargs["options"] = options
            self.submitted[one] = entry = Submitted(one, time.monotonic(), acknowledged=False)
            self.producer.send_task("llm.chat", task_id=one, kwargs=kwargs, queue=queue, **send)
            entry.acknowledged = True
            ids.append(one)
        return ids

    def submit_stubbornly(self, count: int, pause_s: float = 0.0) -> list[str]:
        """As `submit`, going on with other tasks when Redis is away; ids of those it acknowledged."""
        ids: list[str] = []
        for _ in range(count):
            with contextlib.suppress(Exception):
                ids += self.submit(1, retry=False)
            time.sleep(pause_s)
        return ids

    def runs(self) -> dict[str, list[Run]]:
        """All chat requests by task, oldest first; without those that only ask what a server can do."""
        found: dict[str, list[Run]] = {}
        for run in sorted((run for server in self.servers for run in server.runs()), key=_start):
            if run.task_id:
                found.setdefault(run.task_id, []).append(run)
        return found

    def in_flight(self, worker: FaultyWorker | None = None) -> int:
        """Chat requests at the model servers now, of one worker or of all."""
        return sum(
            run.outcome == "running" and (worker is None or run.worker == worker.label)
            for server in self.servers
            for run in server.runs()
        )

    def outcomes(self, ids: list[str] | None = None) -> dict[str, str]:
        """The outcome stored for each task that has one."""
        wanted = list(self.submitted) if ids is None else ids
        stored: list[Any] = []
        for start in range(0, len(wanted), 1000):
            stored += self.redis.client.mget([RESULT + one for one in wanted[start : start + 1000]])  # type: ignore[arg-type, operator]
        found = {}
        for one, value in zip(wanted, stored, strict=True):
            if value is not None and (status := json.loads(value)["status"]) in OUTCOMES:
                found[one] = status
        return found

    def wait(self, what: str, ready: Any, timeout_s: float = 30, every_s: float = 0.03) -> float:
        """Wait until `ready()`; seconds that took. AssertionError names what did not come."""
        began = time.monotonic()
        while not ready():
            if time.monotonic() - began > timeout_s:
                raise AssertionError(f"Not within {timeout_s:g} s: {what}")
            time.sleep(every_s)
        return time.monotonic() - began

    def wait_in_flight(self, count: int, timeout_s: float = 30) -> None:
        self.wait(f"{count} in flight at the model server", lambda: self.in_flight() >= count, timeout_s)

    def wait_outcomes(self, count: int, timeout_s: float = 60) -> float:
        return self.wait(f"{count} outcomes", lambda: len(self.outcomes()) >= count, timeout_s, 0.1)

    def cancel(self, task_id: str, *, terminate: bool = False) -> None:
        """As any Celery program cancels."""
        self.producer.control.revoke(task_id, terminate=terminate)
        self.cancelled.setdefault(task_id, time.monotonic())

    def command(self, *arguments: str, fails: bool = False) -> str:
        """Run `kc-worker` with these; what it printed. AssertionError if it failed, or did not where it should."""
        env = {name: value for name, value in os.environ.items() if name not in setting_names()}
        env |= {"REDIS_URL": self.redis.url, "LLM_SERVER_URL": self.server.url}
        ran = subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            env=env, check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (ran.returncode != 0) == fails, f"kc-worker {' '.join(arguments)}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def logs_of(self, task_id: str) -> list[str]:
        """What the workers' logs say of a task."""
        return [
            f"{worker.label}: {line[:300]}"
            for worker in self.workers
            for line in worker.log().splitlines()
            if task_id in line
        ]

    def close(self) -> None:
        for worker in self.workers:
            if worker.alive:
                worker.process.kill()
            worker.stop()
        for server in self.servers:
            server.process.stop()
        self._resources.close()


@contextlib.contextmanager
def opened_ground(folder: Path, seed: int) -> Iterator[Ground]:
    """A ground with its Redis started and its producer connected."""
    with contextlib.ExitStack() as resources:
        store = FaultyRedis(folder / "redis")
        resources.callback(store.stop)
        announcements = Announcements(store.port)
        resources.callback(announcements.close)
        producer = resources.enter_context(connected_producer(store.url))
        producer.conf.broker_transport_options = {"socket_timeout": 5, "socket_connect_timeout": 2}
        ground = Ground(folder, seed, random.Random(seed), store, producer, announcements)
        ground._resources = resources.pop_all()
        try:
            yield ground
        finally:
            ground.close()


def _start(run: Run) -> float:
    return run.started_s
