"""Real model servers through the queue and without it."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence

from celery import Celery

from bench.benchmark import Column, Options, Plot, Result, Row, Target, in_turns, medians, paired_ratio
from bench.queues import Ours
from bench.running import Running
from bench.servers import LLAMA_CPP, VLLM, RealServer, chat

Json = dict[str, object]

#: Tokens of an answer that the worker has streamed: more than `worker.backends.runaway.SHORT_ANSWER`.
LONG = 260


class Engines:
    """As many in flight as keep the server full; whole answers and streamed ones."""

    name = "engines"
    quick = False

    def run(self, options: Options) -> Result:
        """Measure."""
        measured: dict[str, list[Row]] = {}
        targets, notes = [], []
        for server in (LLAMA_CPP, VLLM):
            if server.missing:
                notes.append(server.missing)
                continue
            options.console.print(f"  starting {server.name} …")
            with server.running() as url:
                ways: dict[str, Callable[[], Row]] = {}
                for kind, requests in (("whole", _whole(server)), ("streamed", _streamed(server))):
                    ways[f"{server.name}, {kind}: direct"] = _direct(server, url, requests)
                    ways[f"{server.name}, {kind}: kc-worker"] = _queued(server, url, requests)
                measured |= in_turns(ways, options.rounds_or(2), options.console, "chats_per_s")
            for kind in ("whole", "streamed"):
                way = f"{server.name}, {kind}"
                ratio = paired_ratio(measured, "chats_per_s", f"{way}: kc-worker", f"{way}: direct")
                targets.append(Target(f"{way}: chats/s through the queue, of direct", ratio, 0.98, ">="))
        return Result(
            title="Real model servers on this machine's CPUs, kept full",
            columns=(
                Column("way", "way"),
                Column("in_flight", "in flight"),
                Column("chats_per_s", "chats/s", 2),
            ),
            rows=medians(measured),
            targets=targets,
            notes=[
                f"SmolLM2-135M; whole: answers of 32 tokens, streamed: of {LONG}; the same chats for all.",
                "The model server takes all CPUs it can get: what worker and Redis need is missing there.",
                *notes,
            ],
            plots={"chats": Plot("bars", "chats_per_s", "chats/s")},
            rounds=measured,
        )


def _whole(server: RealServer) -> list[Json]:
    """Enough that the beginning and the end, when the server is not full, count little."""
    return [chat(number, 32) for number in range(max(64, 4 * server.in_flight))]


def _streamed(server: RealServer) -> list[Json]:
    """Long enough that the worker has them streamed, and watches them."""
    return [{**chat(number, LONG), "ignore_eos": True} for number in range(max(16, server.in_flight))]


def _direct(server: RealServer, url: str, requests: list[Json]) -> Callable[[], Row]:
    def measure() -> Row:
        command = [sys.executable, "-m", "bench.direct", url, "--kind", server.backend, "--requests"]
        command += ["--in-flight", str(server.in_flight)]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, input=json.dumps(requests).encode())
        return {
            "chats_per_s": len(requests) / json.loads(run.stdout)["seconds"],
            "in_flight": server.in_flight,
        }

    return measure


def _queued(server: RealServer, url: str, requests: list[Json]) -> Callable[[], Row]:
    def measure() -> Row:
        with Running(_Asking(server.backend, requests), url, server.in_flight) as running:
            running.warm(0)
            used = running.measure(len(requests))
        return {"chats_per_s": used.tasks / used.seconds, "in_flight": server.in_flight}

    return measure


class _Asking(Ours):
    """Ours, with a question of its own for each task."""

    def __init__(self, backend: str, requests: Sequence[Json]) -> None:
        super().__init__(backend=backend)
        self._requests = requests

    def enqueue(self, redis_url: str, model_url: str, count: int) -> None:
        """By a plain producer."""
        with Celery(broker=redis_url, set_as_current=False) as app:
            for request in self._requests[:count]:
                known = {name: value for name, value in request.items() if name != "ignore_eos"}
                extra = {name: value for name, value in request.items() if name == "ignore_eos"}
                app.send_task(self.task, kwargs={**known, "extra_body": extra})
