"""What thousands of waiting tasks cost in memory and threads."""

import time
from collections.abc import Callable

from bench.benchmark import Column, Options, Plot, Result, Row, Target, in_turns, medians
from bench.modelserver import BenchServer
from bench.queues import Arq, Ours, Queue, StockCelery, Taskiq
from bench.running import Running

IN_FLIGHT = 2000
#: Longer than it takes to get all of them going, seconds.
LATENCY_S = 120.0


class InFlight:
    """2,000 chats at the model server at once from one worker process."""

    name = "in_flight"
    quick = True

    def run(self, options: Options) -> Result:
        """Measure."""
        queues: list[Queue] = [Ours()]
        if not options.quick:
            queues += [Arq(poll_delay_s=0.01), Taskiq(), StockCelery("threads")]
        ways = {queue.name: _hold(queue) for queue in queues}
        spare = {queue.name for queue in queues[1:]}
        measured = in_turns(ways, options.rounds_or(1), options.console, "rss_mb", spare)
        rows = medians(measured)
        ours = rows[0]
        return Result(
            title=f"{IN_FLIGHT:,} chats in flight in one worker process",
            columns=(
                Column("way", "way"),
                Column("in_flight", "in flight"),
                Column("idle_rss_mb", "idle RSS MB"),
                Column("rss_mb", "RSS MB"),
                Column("threads", "threads"),
                Column("files", "open files"),
                Column("seconds", "s to get there", 1),
            ),
            rows=rows,
            targets=[
                Target("in flight", ours["in_flight"], IN_FLIGHT, ">="),
                Target("RSS, MB", ours["rss_mb"], 250, "<="),
                Target("threads", ours["threads"], 20, "<="),
            ],
            notes=["As many as are in flight after at most a minute, where a way does not get to 2,000."],
            plots={"rss": Plot("bars", "rss_mb", "resident memory, MB")},
            rounds=measured,
        )


def _hold(queue: Queue) -> Callable[[], Row]:
    def measure() -> Row:
        with BenchServer(latency=LATENCY_S) as server:
            server.wait_ready()
            with Running(queue, server.url, IN_FLIGHT) as running:
                # The first chat tells that the worker is there.
                running.enqueue(1)
                running.until(lambda: server.counts()["in_flight"] >= 1)
                idle_rss_mb = running.processes.rss_mb()
                with running.stopped():
                    running.enqueue(IN_FLIGHT - 1)
                started = time.monotonic()
                running.until(
                    lambda: server.counts()["in_flight"] >= IN_FLIGHT or time.monotonic() > started + 60
                )
                return {
                    "in_flight": server.counts()["in_flight"],
                    "idle_rss_mb": idle_rss_mb,
                    "rss_mb": running.processes.rss_mb(),
                    "threads": running.processes.threads(),
                    "files": sum(process.num_fds() for process in running.processes.all()),
                    "seconds": time.monotonic() - started,
                }

    return measure
