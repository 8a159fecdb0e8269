"""Whether a task costs more where many others are waiting behind it."""

from collections.abc import Callable
from functools import partial

from bench.benchmark import Column, Options, Plot, Result, Row, Target, in_turns, medians
from bench.modelserver import BenchServer
from bench.queues import Ours
from bench.running import Running

IN_FLIGHT = 256
TASKS = 2000
LATENCY_S = 0.01


class Depth:
    """The same number of tasks at the head of queues of very different length."""

    name = "depth"
    quick = True

    def run(self, options: Options) -> Result:
        """Measure."""
        depths = (1, 100_000) if options.quick else (1, 1_000, 100_000, 1_000_000)
        with BenchServer(latency=LATENCY_S) as server:
            server.wait_ready()
            ways: dict[str, Callable[[], Row]] = {
                f"{depth:,} behind": partial(_measure, server, depth) for depth in depths
            }
            measured = in_turns(ways, options.rounds_or(3), options.console, "cpu_ms_per_task")
        rows = medians(measured)
        cost = [row["cpu_ms_per_task"] + row["redis_cpu_ms_per_task"] for row in rows]
        return Result(
            title=f"{TASKS:,} chats taken from the head of a queue, by how many are left behind them",
            columns=(
                Column("way", "queue"),
                Column("ms_per_task", "ms/task", 3),
                Column("cpu_ms_per_task", "CPU ms/task", 3),
                Column("redis_cpu_ms_per_task", "Redis CPU ms/task", 3),
                Column("redis_commands_per_task", "Redis commands/task", 2),
            ),
            rows=rows,
            targets=[
                Target("CPU a task, worker and Redis, dearest of cheapest", max(cost) / min(cost), 1.1, "<=")
            ],
            notes=[
                f"Chats of {1000 * LATENCY_S:g} ms, {IN_FLIGHT} in flight: the worker is busy all the time."
            ],
            plots={
                "cost": Plot("line", "cpu_ms_per_task", "CPU, ms/task", "behind", "tasks left in the queue")
            },
            rounds=measured,
        )


def _measure(server: BenchServer, depth: int) -> Row:
    with Running(Ours(), server.url, IN_FLIGHT) as running:
        running.warm(300)
        used = running.measure(TASKS, behind=depth)
        return {**used.row(), "ms_per_task": 1000 * used.seconds / used.tasks, "behind": depth}
