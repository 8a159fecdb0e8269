"""The ground a fault is tried on: a Redis, model servers and workers of its own, and a record of what was done."""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery

from tests.faults.parts import (
    OUTCOMES,
    RESULT,
    Announcements,
    FaultyRedis,
    FaultyServer,
    FaultyWorker,
    Run,
    Submitted,
)
from worker.settings import setting_names


@dataclass
class Ground:
    """Everything a scenario uses; `with opened_ground(folder, seed)` makes it and clears it away.

    Attributes:
        folder: for logs and data.
        random: the scenario's own, seeded.
        submitted: every task handed over, by id.
        may_run_again: ids whose calls may overlap or repeat: a worker was frozen, not dead.
        cancelled: when each task was cancelled.
        faults_may_answer: whether what the model server is told to do wrong may end in an answer.
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
    faults_may_answer: bool = False
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
        # Without a result store: Celery's own consumer of results does not outlive its Redis.
        producer = Celery("producer", broker=store.url, set_as_current=False)
        producer.conf.broker_transport_options = {"socket_timeout": 5, "socket_connect_timeout": 2}
        resources.callback(producer.close)
        ground = Ground(folder, seed, random.Random(seed), store, producer, announcements)
        ground._resources = resources.pop_all()
        try:
            yield ground
        finally:
            ground.close()


def _start(run: Run) -> float:
    return run.started_s
