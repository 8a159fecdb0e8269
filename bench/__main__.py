"""How much of a server's capacity reaches it through the queue, next to other ways to call it.

A scripted server in its own process answers every chat after a fixed time, so that what is measured is the
way to it. Each way gets the same chats, in turns, for several rounds; the figures are medians and their ratio
to calling the server directly with the same client.
"""

import argparse
import asyncio
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import psutil
import redis
from celery import Celery
from rich.console import Console
from rich.table import Table

from worker.backends.base import BackendOptions, CallContext
from worker.backends.registry import create_backend
from worker.local.celery_worker import LocalWorker
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted

MESSAGES = [{"role": "user", "content": "Say something."}]
RECORD = Path("docs/benchmarks/throughput.json")


def direct(server_url: str, tasks: int, in_flight: int) -> float:
    """Seconds for `tasks` chats by the project's own client, `in_flight` at once, without a queue."""

    async def run() -> float:
        backend = create_backend("vllm", BackendOptions((server_url,), pool_size=in_flight))
        try:
            await backend.chat({"messages": MESSAGES}, CallContext())
            started = time.perf_counter()
            await asyncio.gather(*(backend.chat({"messages": MESSAGES}, CallContext()) for _ in range(tasks)))
            return time.perf_counter() - started
        finally:
            await backend.aclose()

    return asyncio.run(run())


def queued(server_url: str, tasks: int, in_flight: int, *pool: str) -> tuple[float, dict[str, float]]:
    """Seconds for `tasks` chats through Redis and one worker, and what that worker used at most."""
    with LocalRedis() as store:
        store.wait_ready()
        env = {"WORKER_CONCURRENCY": str(in_flight)}
        with LocalWorker(store.url, server_url, backend="vllm", env=env, args=pool) as worker:
            worker.wait_ready()
            app = Celery(broker=store.url, backend=store.url, set_as_current=False)
            app.send_task("llm.chat", kwargs={"messages": MESSAGES}).get(timeout=60)
            with redis.Redis.from_url(store.url) as client:
                return _until_stored(app, client, tasks, psutil.Process(worker.pid))


def _until_stored(
    app: Celery, client: redis.Redis, tasks: int, process: psutil.Process
) -> tuple[float, dict[str, float]]:
    with app.pool.acquire(block=True) as connection, app.amqp.Producer(connection) as producer:
        cpu = process.cpu_times()
        started = time.perf_counter()
        for _ in range(tasks):
            app.send_task("llm.chat", kwargs={"messages": MESSAGES}, producer=producer)
        used = {"threads": 0.0, "rss_mb": 0.0}
        while len(client.keys("celery-task-meta-*")) <= tasks:
            used["threads"] = max(used["threads"], process.num_threads())
            used["rss_mb"] = max(used["rss_mb"], process.memory_info().rss / 1e6)
            time.sleep(0.05)
        seconds = time.perf_counter() - started
    after = process.cpu_times()
    used["cpu_ms_per_task"] = 1000 * (after.user + after.system - cpu.user - cpu.system) / tasks
    return seconds, used


def main() -> None:
    """Run the rounds and print and record the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1500)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds a chat takes the server")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    wide = str(chosen.in_flight)
    ways: dict[str, Callable[[str], tuple[float, dict[str, float]]]] = {
        "direct, no queue": lambda url: (direct(url, chosen.tasks, chosen.in_flight), {}),
        "celery -A worker worker": lambda url: queued(url, chosen.tasks, chosen.in_flight),
        f"… -P threads -c {wide}": lambda url: queued(
            url, chosen.tasks, chosen.in_flight, "-P", "threads", "-c", wide
        ),
        "… -P prefork -c 8": lambda url: queued(
            url, chosen.tasks, chosen.in_flight, "-P", "prefork", "-c", "8"
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, dict[str, float]] = {}
    console = Console()
    with LocalScripted("vllm", latency_s=chosen.latency) as server:
        server.wait_ready()
        for number in range(1, chosen.rounds + 1):
            for name, run in ways.items():
                seconds, used[name] = run(server.url)
                rates[name].append(chosen.tasks / seconds)
                console.print(f"round {number}/{chosen.rounds}  {name}: {rates[name][-1]:.0f} tasks/s")
    report(console, chosen, rates, used)


def report(
    console: Console,
    chosen: argparse.Namespace,
    rates: dict[str, list[float]],
    used: dict[str, dict[str, float]],
) -> None:
    """Print the table and write the record."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    limit = medians["direct, no queue"]
    table = Table(title=f"{chosen.tasks} chats of {chosen.latency} s, {chosen.in_flight} in flight")
    for column in ("way", "tasks/s", "of direct", "CPU ms/task", "threads", "RSS MB"):
        table.add_column(column, justify="left" if column == "way" else "right")
    rows = []
    for name, rate in medians.items():
        row = {"way": name, "tasks_per_s": round(rate, 1), "of_direct": round(rate / limit, 3), **used[name]}
        rows.append(row)
        shown = [used[name].get(key) for key in ("cpu_ms_per_task", "threads", "rss_mb")]
        cells = ["" if value is None else f"{value:.1f}".removesuffix(".0") for value in shown]
        table.add_row(name, f"{rate:.0f}", f"{rate / limit:.2f}", *cells)
    console.print(table)
    record = {
        "command": f"python -m bench {' '.join(sys.argv[1:])}".strip(),
        "machine": {"cpus": psutil.cpu_count(), "platform": platform.platform()},
        "versions": {name: version(name) for name in ("celery", "kombu", "redis", "httpx", "uvloop")},
        "rows": rows,
    }
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
    console.print(f"Recorded in {RECORD}.")


if __name__ == "__main__":
    main()
