"""The ways to a model server that go through a queue: ours and its peers, started and fed alike."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from bench import provision
from bench.messages import Messages
from bench.meter import RedisMeter
from bench.peers.model import REQUEST
from worker.local.celery_worker import LocalWorker
from worker.local.child import Child


class Queue:
    """One queue with one worker process.

    Attributes:
        name: in tables.
        share: part of the tasks it is measured with; less than 1 for one that would take all day.
    """

    name: str
    share: float = 1.0

    def worker(self, redis_url: str, model_url: str, in_flight: int) -> Child:
        """Start its worker."""
        raise NotImplementedError

    def enqueue(self, redis_url: str, model_url: str, count: int) -> None:
        """Put so many chats in the queue."""
        raise NotImplementedError

    def finished(self, redis: RedisMeter, sent: int, wanted: int) -> int:
        """How many of the chats sent have a stored result; exact only when it is at least `wanted`."""
        raise NotImplementedError

    def time(self, redis_url: str, model_url: str, count: int) -> list[float]:
        """Seconds each of so many chats takes a producer, one after another."""
        raise NotImplementedError


class _Stored(Queue):
    """Where each result is a key."""

    results: str

    def finished(self, redis: RedisMeter, sent: int, wanted: int) -> int:
        """Counted; but not before there are enough keys of any sort."""
        return redis.count(self.results) if int(redis.ask("DBSIZE")) >= wanted else 0


class _Celery(_Stored):
    """What takes Celery's messages."""

    results = "celery-task-meta-*"
    task: str
    queue = "celery"
    request = REQUEST

    def enqueue(self, redis_url: str, model_url: str, count: int) -> None:
        """Prepared messages."""
        messages = Messages(redis_url, self.task, [self.request], self.queue)
        messages.push(count)
        messages.close()

    def time(self, redis_url: str, model_url: str, count: int) -> list[float]:
        """A plain Celery producer."""
        env = {"TASK": self.task}
        return _time(sys.executable, "celery_app", _environment(redis_url, model_url, 1) | env, count)


class Ours(_Celery):
    """`celery -A worker worker`.

    Args:
        env: more settings for the worker.
        backend: which kind of server it is told that it talks to.
        long: whether answers may be long; they are streamed then, and watched.
    """

    name = "kc-worker"
    task = "llm.chat"

    def __init__(
        self, env: Mapping[str, str] | None = None, backend: str = "vllm", *, long: bool = False
    ) -> None:
        self._env, self._backend = dict(env or {}), backend
        if long:
            self.name = "kc-worker, streamed"
            self.request = {"messages": REQUEST["messages"]}

    def worker(self, redis_url: str, model_url: str, in_flight: int) -> Child:
        """As a user starts it; how the gate finds its limit is measured elsewhere."""
        limits = {"WORKER_CONCURRENCY": str(in_flight), "LLM_MAX_CONCURRENCY": str(in_flight)}
        return LocalWorker(redis_url, model_url, backend=self._backend, env=limits | self._env)


class StockCelery(_Celery):
    """Celery with its own transport, store and pools.

    Args:
        pool: "threads" or "prefork".
        processes: of the prefork pool.
    """

    task = "bench.chat"

    def __init__(self, pool: str, processes: int = 16) -> None:
        self._pool, self._processes = pool, processes
        self.name = f"Celery, {pool}"
        self.share = 0.2 if pool == "prefork" else 0.5

    def worker(self, redis_url: str, model_url: str, in_flight: int) -> Child:
        """As its documentation starts it."""
        wide = self._processes if self._pool == "prefork" else in_flight
        command = [sys.executable, "-m", "celery", "-A", "bench.peers.celery_app", "worker"]
        command += ["--loglevel=info", "-P", self._pool, "-c", str(wide)]
        return Child("celery", command, env=_environment(redis_url, model_url, in_flight))


class _Peer(Queue):
    """A queue of another project, in an environment of its own."""

    environment: provision.Environment
    module: str

    def command(self, in_flight: int) -> list[str]:
        """Its worker's command line."""
        raise NotImplementedError

    def settings(self) -> dict[str, str]:
        """What its environment has besides what all have."""
        return {}

    def worker(self, redis_url: str, model_url: str, in_flight: int) -> Child:
        """By its own command."""
        program, *arguments = self.command(in_flight)
        command = [self.environment.program("python"), self.environment.program(program), *arguments]
        env = _environment(redis_url, model_url, in_flight) | self.settings()
        return Child(self.module, command, env=env)

    def enqueue(self, redis_url: str, model_url: str, count: int) -> None:
        """By its own producer."""
        command = [
            self.environment.program("python"),
            "-m",
            f"bench.peers.{self.module}",
            "enqueue",
            str(count),
        ]
        subprocess.run(command, check=True, env=_environment(redis_url, model_url, 1))

    def time(self, redis_url: str, model_url: str, count: int) -> list[float]:
        """By its own producer."""
        python = self.environment.program("python")
        env = _environment(redis_url, model_url, 1) | self.settings()
        return _time(python, self.module, env, count)


class Arq(_Peer):
    """arq.

    Args:
        poll_delay_s: its `poll_delay`; None: its default, half a second, which is meant for longer jobs.
    """

    environment = provision.ARQ
    module = "arq_app"

    def __init__(self, poll_delay_s: float | None = None) -> None:
        self.name = "arq as it comes" if poll_delay_s is None else "arq"
        self._poll_delay_s = poll_delay_s

    def command(self, in_flight: int) -> list[str]:
        """`max_jobs` is in its settings class."""
        return ["arq", "bench.peers.arq_app.WorkerSettings"]

    def settings(self) -> dict[str, str]:
        """For worker and producer."""
        return {} if self._poll_delay_s is None else {"POLL_DELAY_S": str(self._poll_delay_s)}

    def finished(self, redis: RedisMeter, sent: int, wanted: int) -> int:
        """A job leaves the queue in the transaction that stores its result."""
        return sent - int(redis.ask("ZCARD", "arq:queue"))


class Taskiq(_Stored, _Peer):
    """taskiq on Redis streams."""

    name = "taskiq"
    environment = provision.PEERS
    module = "taskiq_app"
    results = "result:*"

    def command(self, in_flight: int) -> list[str]:
        """One process, as everybody here."""
        wide = ["--workers", "1", "--max-async-tasks", str(in_flight)]
        return ["taskiq", "worker", "bench.peers.taskiq_app:broker", *wide]


class Dramatiq(_Stored, _Peer):
    """dramatiq with asyncio."""

    name = "dramatiq"
    environment = provision.PEERS
    module = "dramatiq_app"
    results = "dramatiq-results:*"

    def command(self, in_flight: int) -> list[str]:
        """One process, as everybody here."""
        return ["dramatiq", "bench.peers.dramatiq_app", "--processes", "1", "--threads", str(in_flight)]


def _environment(redis_url: str, model_url: str, in_flight: int) -> dict[str, str]:
    """This process's, and what `bench.peers.model` reads."""
    chosen = {"REDIS_URL": redis_url, "MODEL_URL": model_url, "IN_FLIGHT": str(in_flight)}
    return {**os.environ, "PYTHONPATH": str(provision.REPOSITORY), **chosen}


def _time(python: str, module: str, env: dict[str, str], count: int) -> list[float]:
    command = [python, "-m", f"bench.peers.{module}", "time", str(count)]
    took: list[float] = json.loads(
        subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE).stdout
    )
    return took
