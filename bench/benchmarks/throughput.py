"""Tasks a second through one worker process, next to other queues and to no queue at all."""

import json
import subprocess
import sys
from collections.abc import Callable

from bench.benchmark import (
    Column,
    Options,
    Plot,
    Result,
    Row,
    Target,
    in_turns,
    medians,
    paired_ratio,
    ratios,
)
from bench.ceiling import ceiling
from bench.modelserver import BenchServer
from bench.queues import Arq, Dramatiq, Ours, Queue, StockCelery, Taskiq
from bench.running import Running

IN_FLIGHT = 256
#: Chats before the measured ones: every connection is open by then.
WARM = 300
COLUMNS = (
    Column("way", "way"),
    Column("tasks_per_s", "tasks/s"),
    Column("of_direct", "of direct", 2),
    Column("of_arq", "of arq", 2),
    Column("cpu_ms_per_task", "CPU ms/task", 2),
    Column("redis_commands_per_task", "Redis cmds/task", 1),
    Column("redis_round_trips_per_task", "trips/task", 2),
    Column("redis_cpu_ms_per_task", "Redis ms/task", 3),
    Column("most_in_flight", "in flight"),
    Column("rss_mb", "RSS MB"),
    Column("threads", "threads"),
)


class Throughput:
    """256 in flight in one process, against a model server that answers after a fixed time.

    Args:
        name: of the benchmark.
        latency_s: seconds a chat takes the server.
        tasks: chats a measurement.
    """

    quick = True

    def __init__(self, name: str, latency_s: float, tasks: int) -> None:
        self.name, self._latency_s, self._tasks = name, latency_s, tasks
        self.quick = name == "throughput"

    def run(self, options: Options) -> Result:
        """Measure."""
        queues: list[Queue] = [Ours(), Arq(poll_delay_s=0.01)]
        if not options.quick:
            queues += [Ours(long=True), Arq(), Taskiq(), Dramatiq()]
            queues += [StockCelery("threads"), StockCelery("prefork")]
        with BenchServer() as unhurried:
            unhurried.wait_ready()
            most = ceiling(unhurried.url)
        options.console.print(f"  the model server itself: {most:,.0f} requests/s", highlight=False)
        with BenchServer(latency=self._latency_s) as server:
            server.wait_ready()
            ways = {
                "direct": lambda: self._direct(server),
                "direct, streamed": lambda: self._direct(server, "--stream"),
                "direct, bare aiohttp": lambda: self._direct(server, "--client", "aiohttp"),
                **{queue.name: self._queued(server, queue) for queue in queues},
            }
            spare = {queue.name for queue in queues[2:]}
            measured = in_turns(ways, options.rounds_or(3), options.console, "tasks_per_s", spare)
        rows = medians(measured)
        ratios(rows, "tasks_per_s", "direct", "of_direct")
        ratios(rows, "tasks_per_s", "arq", "of_arq")
        return Result(
            title=f"Chats of {self._latency_s:g} s, {IN_FLIGHT} in flight in one worker process",
            columns=COLUMNS,
            rows=rows,
            targets=[
                Target(
                    "tasks/s, of arq's", paired_ratio(measured, "tasks_per_s", "kc-worker", "arq"), 1.25, ">="
                ),
                Target(
                    "CPU a task, of arq's",
                    paired_ratio(measured, "cpu_ms_per_task", "kc-worker", "arq"),
                    1.0,
                    "<=",
                ),
            ],
            notes=[
                f"The model server, in a process of its own, could answer {most:,.0f} requests/s.",
                f"{self._tasks:,} chats are queued while the worker stands still.",
                "Timed from letting it go to the last stored result.",
                "Worker, Redis and model server share the machine's CPUs.",
                "Redis: commands, those in scripts too; trips: times it read from a connection; its CPU.",
                "direct: the worker's own client without a queue.",
                "streamed: answers without a limit of tokens, which the worker watches; 20 pieces each.",
                "The asyncio peers run on uvloop and call the model with bare aiohttp, the leanest client.",
                "Stock Celery calls it with httpx; prefork has 16 processes.",
                "arq polls every 10 ms, which makes it faster; `arq as it comes` does so every half second.",
                "The slow ones get fewer chats: Celery threads one half, prefork one fifth.",
            ],
            plots={
                "tasks": Plot("bars", "tasks_per_s", "tasks/s"),
                "cpu": Plot("bars", "cpu_ms_per_task", "CPU of the worker, ms/task"),
            },
            rounds=measured,
        )

    def _direct(self, server: BenchServer, *arguments: str) -> Row:
        server.forget()
        command = [sys.executable, "-m", "bench.direct", server.url, *arguments]
        command += ["--count", str(self._tasks), "--in-flight", str(IN_FLIGHT)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        return {
            "tasks_per_s": self._tasks / found["seconds"],
            "cpu_ms_per_task": 1000 * found["cpu_s"] / self._tasks,
            "most_in_flight": server.counts()["most_in_flight"],
        }

    def _queued(self, server: BenchServer, queue: Queue) -> Callable[[], Row]:
        def measure() -> Row:
            with Running(queue, server.url, IN_FLIGHT) as running:
                running.warm(WARM)
                server.forget()
                used = running.measure(int(self._tasks * queue.share))
                return {**used.row(), "most_in_flight": server.counts()["most_in_flight"]}

        return measure
