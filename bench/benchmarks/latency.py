"""What a queue adds to one chat on an idle system: from sending it to having its result."""

import json
import subprocess
import sys
from collections.abc import Callable

from bench.benchmark import Column, Options, Plot, Result, Row, Target, in_turns, percentile
from bench.modelserver import BenchServer
from bench.queues import Arq, Dramatiq, Ours, Queue, StockCelery, Taskiq
from bench.running import Running

LATENCY_S = 0.02


class Latency:
    """One at a time, by each queue's own producer, which waits as its documentation says."""

    name = "latency"
    quick = True

    def run(self, options: Options) -> Result:
        """Measure."""
        chats = 60 if options.quick else 200
        queues: list[Queue] = [Ours()]
        if not options.quick:
            queues += [StockCelery("threads"), Dramatiq(), Arq(poll_delay_s=0.01), Taskiq()]
        with BenchServer(latency=LATENCY_S) as server:
            server.wait_ready()
            ways = {
                "direct": lambda: _direct(server, chats),
                **{queue.name: _queued(server, queue, chats) for queue in queues},
            }
            spare = {queue.name for queue in queues[1:]}
            measured = in_turns(ways, options.rounds_or(2), options.console, "p50_ms", spare)
        direct_ms = percentile([ms for row in measured["direct"] for ms in row["took_ms"]], 0.5)
        rows = [
            _row(name, [ms for row in found for ms in row["took_ms"]], direct_ms)
            for name, found in measured.items()
        ]
        ours = next(row for row in rows if row["way"] == "kc-worker")
        return Result(
            title=f"One chat of {1000 * LATENCY_S:g} ms at a time on an idle system",
            columns=(
                Column("way", "way"),
                Column("p50_ms", "p50 ms", 1),
                Column("p99_ms", "p99 ms", 1),
                Column("added_p50_ms", "added p50 ms", 1),
                Column("added_p99_ms", "added p99 ms", 1),
                Column("chats", "chats"),
            ),
            rows=rows,
            targets=[
                Target("added, p50, ms", ours["added_p50_ms"], 4, "<="),
                Target("added, p99, ms", ours["added_p99_ms"], 15, "<="),
            ],
            notes=[
                "From before sending to after receiving the result, in the producer's process.",
                "Added: less the median of the direct call, by the worker's own client.",
                "Celery's and dramatiq's producers are told of a result.",
                "arq's worker and producer look every 10 ms, not every 500; taskiq's producer every 200.",
            ],
            plots={"added": Plot("bars", "added_p50_ms", "added by the queue, median, ms")},
            rounds=measured,
        )


def _row(name: str, took_ms: list[float], direct_ms: float) -> Row:
    p50_ms, p99_ms = percentile(took_ms, 0.5), percentile(took_ms, 0.99)
    added = {"added_p50_ms": p50_ms - direct_ms, "added_p99_ms": p99_ms - direct_ms}
    return {"way": name, "p50_ms": p50_ms, "p99_ms": p99_ms, **added, "chats": len(took_ms)}


def _measured(took_s: list[float]) -> Row:
    took_ms = [1000 * seconds for seconds in took_s]
    return {"p50_ms": percentile(took_ms, 0.5), "took_ms": took_ms}


def _direct(server: BenchServer, chats: int) -> Row:
    command = [sys.executable, "-m", "bench.direct", server.url, "--count", str(chats), "--in-flight", "1"]
    return _measured(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["took"])


def _queued(server: BenchServer, queue: Queue, chats: int) -> Callable[[], Row]:
    def measure() -> Row:
        with Running(queue, server.url, 16) as running:
            running.warm(32)
            return _measured(queue.time(running.redis.url, server.url, chats))

    return measure
