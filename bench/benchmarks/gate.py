"""Whether LLM_MAX_CONCURRENCY=auto finds what a person would find by trying."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.benchmark import Column, Options, Plot, Result, Row, Target, in_turns, medians
from bench.messages import Messages
from bench.queues import Ours
from bench.running import Running
from bench.servers import LLAMA_CPP, LLAMA_CPP_PYTHON, VLLM, RealServer, chat
from worker.local.scripted import LocalScripted

#: Seconds a fixed setting has before it is measured, and "auto", which has to find its own.
SETTLE_S, FIND_S = 10.0, 60.0
DEGRADES_PAST = 48
IN_FLIGHT = 256
#: Answers of different lengths: those of one length come in bursts, as many at once as are in flight.
CHATS = [chat(number, tokens) for number, tokens in enumerate((24, 40, 16, 48, 32, 8, 56))]


@dataclass(frozen=True, slots=True)
class _Degrading:
    """A server that gets slower as a whole when more than it likes is in flight, and says so to nobody."""

    name: str = f"degrades past {DEGRADES_PAST}"
    backend: str = "vllm"
    missing: str = ""

    @contextmanager
    def running(self) -> Iterator[str]:
        with LocalScripted("vllm", latency_s=0.5, **{"degrades-past": DEGRADES_PAST}) as server:
            server.wait_ready()
            yield server.url


#: Each server with the fixed settings that are tried.
SERVERS: tuple[tuple[_Degrading | RealServer, tuple[int, ...]], ...] = (
    (_Degrading(), (32, 48, 64)),
    (LLAMA_CPP, (4, 8)),
    (LLAMA_CPP_PYTHON, (1,)),
    (VLLM, (32, 64)),
)


class Gate:
    """Answers a second with "auto" after a minute, and with fixed settings."""

    name = "gate"
    quick = False

    def run(self, options: Options) -> Result:
        """Measure."""
        measured: dict[str, list[Row]] = {}
        targets, notes = [], []
        for server, tried in SERVERS:
            if server.missing:
                notes.append(server.missing)
                continue
            options.console.print(f"  starting {server.name} …")
            with server.running() as url:
                ways = {
                    f"{server.name}: {setting}": _measure(server.backend, url, str(setting), options.quick)
                    for setting in (*tried, "auto")
                }
                found = in_turns(ways, options.rounds_or(1), options.console, "answers_per_s")
            rates = {row["way"]: row["answers_per_s"] for row in medians(found)}
            auto = rates.pop(f"{server.name}: auto")
            targets.append(
                Target(
                    f"{server.name}: auto, of the best fixed setting", auto / max(rates.values()), 0.95, ">="
                )
            )
            measured |= found
        return Result(
            title="Answers a second by LLM_MAX_CONCURRENCY",
            columns=(Column("way", "server: setting"), Column("answers_per_s", "answers/s", 2)),
            rows=medians(measured),
            targets=targets,
            notes=[
                "SmolLM2-135M, answers of 8 to 56 tokens; the server that degrades answers in 0.5 s.",
                f"auto is measured after {FIND_S:g} s of work, a fixed setting after {SETTLE_S:g} s.",
                *notes,
            ],
            plots={"answers": Plot("bars", "answers_per_s", "answers/s")},
            rounds=measured,
        )


def _measure(backend: str, url: str, setting: str, quick: bool) -> Callable[[], Row]:
    def measure() -> Row:
        queue = Ours({"LLM_MAX_CONCURRENCY": setting}, backend)
        with Running(queue, url, IN_FLIGHT) as running:
            messages = Messages(running.redis.url, "llm.chat", CHATS)
            messages.push(20_000)
            messages.close()
            running.until(lambda: running.finished(0) > 0)
            time.sleep(FIND_S if setting == "auto" else SETTLE_S)
            before, began = running.finished(0), time.monotonic()
            time.sleep(10 if quick else 20)
            return {"answers_per_s": (running.finished(0) - before) / (time.monotonic() - began)}

    return measure
