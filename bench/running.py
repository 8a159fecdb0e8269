"""A queue at work: its own Redis, one worker, and what both use for a number of tasks."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bench.meter import Processes, RedisMeter
from bench.queues import Queue
from worker.local.redis import LocalRedis

_POLL_S = 0.01
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Used:
    """What a number of tasks took.

    Attributes:
        tasks: how many.
        seconds: from letting the worker go to the last stored result.
        cpu_s: CPU seconds of the worker, all its processes.
        rss_mb: most resident memory of them.
        threads: most threads of them.
        redis_commands: commands of all but the bench itself, those inside scripts included.
        redis_round_trips: times Redis read from a connection.
        redis_cpu_s: CPU seconds of Redis.
    """

    tasks: int
    seconds: float
    cpu_s: float
    rss_mb: float
    threads: int
    redis_commands: int
    redis_round_trips: int
    redis_cpu_s: float

    def row(self) -> dict[str, float]:
        """The same for one task."""
        return {
            "tasks_per_s": self.tasks / self.seconds,
            "cpu_ms_per_task": 1000 * self.cpu_s / self.tasks,
            "redis_commands_per_task": self.redis_commands / self.tasks,
            "redis_round_trips_per_task": self.redis_round_trips / self.tasks,
            "redis_cpu_ms_per_task": 1000 * self.redis_cpu_s / self.tasks,
            "rss_mb": self.rss_mb,
            "threads": self.threads,
        }


class Running:
    """Starts Redis and the worker; leaving the context ends both.

    Args:
        queue: which one.
        model_url: the model server.
        in_flight: tasks the worker may hold.
    """

    def __init__(self, queue: Queue, model_url: str, in_flight: int) -> None:
        self.queue, self.model_url, self.in_flight = queue, model_url, in_flight
        self.sent = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.redis = stack.enter_context(LocalRedis())
            self.redis.wait_ready()
            self.meter = RedisMeter(self.redis.url)
            stack.callback(self.meter.close)
            self.worker = stack.enter_context(
                self.queue.worker(self.redis.url, self.model_url, self.in_flight)
            )
            self.processes = Processes(self.worker.pid)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def warm(self, tasks: int) -> None:
        """Run some tasks: the worker is there, its connections are open."""
        self.enqueue(1)
        self.until_finished()
        self.enqueue(tasks)
        self.until_finished()

    def enqueue(self, tasks: int) -> None:
        """Put chats in the queue."""
        self.queue.enqueue(self.redis.url, self.model_url, tasks)
        self.sent += tasks

    def finished(self, wanted: int) -> int:
        """Chats with a stored result, exact from `wanted` on."""
        return self.queue.finished(self.meter, self.sent, wanted)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The worker's processes stand still meanwhile: producing costs it nothing."""
        os.killpg(self.worker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.worker.pid, signal.SIGCONT)

    def measure(self, tasks: int, behind: int = 0) -> Used:
        """Queue chats while the worker stands still, let it go, and wait for the last result.

        Args:
            tasks: how many are measured.
            behind: how many more are queued behind them.
        """
        finished = self.sent
        with self.stopped():
            self.enqueue(tasks + behind)
            before, cpu_s = self.meter.counters(), self.processes.cpu_s()
        started = time.perf_counter()
        rss_mb, threads = self.until_finished(behind)
        seconds = time.perf_counter() - started
        cpu_s = self.processes.cpu_s() - cpu_s
        redis = self.meter.counters() - before
        # The last look may have come a little late.
        tasks = self.finished(self.sent - behind) - finished if behind else tasks
        return Used(tasks, seconds, cpu_s, rss_mb, threads, redis.commands, redis.round_trips, redis.cpu_s)

    def until_finished(self, but: int = 0) -> tuple[float, int]:
        """Wait for the results of everything sent; returns the most memory (MB) and threads seen.

        Args:
            but: how many are not waited for.
        """
        rss_mb, threads, polls, wanted = 0.0, 0, 0, self.sent - but

        def all_finished() -> bool:
            nonlocal rss_mb, threads, polls
            if polls % 20 == 0:
                rss_mb, threads = max(rss_mb, self.processes.rss_mb()), max(threads, self.processes.threads())
            polls += 1
            return self.finished(wanted) >= wanted

        self.until(all_finished)
        return rss_mb, threads

    def until(self, condition: Callable[[], bool], timeout_s: float = _TIMEOUT_S) -> None:
        """Wait for something.

        Raises:
            LocalError: the worker ended, or it took too long; with the end of the worker's log.
        """
        give_up = time.monotonic() + timeout_s
        while not condition():
            if not self.worker.alive:
                raise self.worker.failure("ended")
            if time.monotonic() > give_up:
                raise self.worker.failure(f"has not done its work in {timeout_s:.0f} s")
            time.sleep(_POLL_S)
