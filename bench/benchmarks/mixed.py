"""People chatting while a batch runs: how long they wait for a first word, and what that costs the batch."""

import random
import time
from collections.abc import Callable, Iterable

from celery import Celery

from bench.benchmark import Column, Options, Plot, Result, Row, Target, in_turns, paired_ratio, percentile
from bench.messages import Messages
from bench.modelserver import BenchServer
from bench.peers.model import REQUEST
from bench.queues import Ours
from bench.running import Running

SLOTS = 32
LATENCY_S = 0.5
TOKENS = 20
#: Answers take between a half and one and a half of LATENCY_S.
SPREAD = 0.5
IN_FLIGHT = 256
#: Chats a second people send, at random moments: 6 % of what the server can do.
CHATS_PER_S = 4.0
#: Both have gone on for so many seconds before anything counts.
SETTLE_S = 10.0
#: Seconds after the measurement in which chats may still get their turn; the others count as served then.
PATIENCE_S = 10.0


class Mixed:
    """The same chats with and without a saturating batch, the same batch with and without chats."""

    name = "mixed"
    quick = True

    def run(self, options: Options) -> Result:
        """Measure."""
        seconds = 10.0 if options.quick else 25.0
        with BenchServer(
            kind="llamacpp", latency=LATENCY_S, slots=SLOTS, tokens=TOKENS, spread=SPREAD
        ) as server:
            server.wait_ready()
            ways = {
                "chats alone": _measure(server, seconds, chats=True, batch=False),
                "batch alone": _measure(server, seconds, chats=False, batch=True),
                "both": _measure(server, seconds, chats=True, batch=True),
            }
            measured = in_turns(ways, options.rounds_or(2), options.console, "answers_per_s")
        rows = [_row(name, found) for name, found in measured.items()]
        alone, _, both = rows
        slower = both["ttft_p99_ms"] / alone["ttft_p99_ms"]
        kept = paired_ratio(measured, "batch_per_s", "both", "batch alone")
        return Result(
            title=f"Chats beside a saturating batch; {SLOTS} slots, about {LATENCY_S:g} s an answer",
            columns=(
                Column("way", "way"),
                Column("ttft_p50_ms", "chats: first token p50 ms"),
                Column("ttft_p99_ms", "p99 ms"),
                Column("chats", "chats"),
                Column("batch_per_s", "batch answers/s", 1),
            ),
            rows=rows,
            targets=[
                Target("chats' first token, p99, of that without a batch", slower, 1.5, "<="),
                Target("batch answers/s, of those without chats", kept, 0.85, ">="),
            ],
            notes=[
                f"Queue interactive: {CHATS_PER_S:g} chats/s at random moments; queue batch: always full.",
                "First token: from sending the task to the moment the model server has one.",
                f"With a slot, that takes the server {1000 * LATENCY_S / TOKENS:g} ms.",
                f"The server could give {SLOTS / LATENCY_S:g} answers/s.",
            ],
            plots={"ttft": Plot("bars", "ttft_p99_ms", "chats: time to first token, p99, ms")},
            rounds=measured,
        )


def _row(name: str, found: list[Row]) -> Row:
    ttft_ms = [ms for row in found for ms in row["ttft_ms"]]
    row: Row = {"way": name, "chats": len(ttft_ms) or None}
    if ttft_ms:
        row |= {"ttft_p50_ms": percentile(ttft_ms, 0.5), "ttft_p99_ms": percentile(ttft_ms, 0.99)}
    batch_per_s = sum(row["batch_per_s"] for row in found) / len(found)
    return {**row, "batch_per_s": batch_per_s or None}


def _measure(server: BenchServer, seconds: float, *, chats: bool, batch: bool) -> Callable[[], Row]:
    def measure() -> Row:
        queue = Ours({"LLM_MAX_CONCURRENCY": "auto"}, backend="llamacpp")
        with Running(queue, server.url, IN_FLIGHT) as running:
            running.warm(SLOTS)
            server.forget()
            messages = Messages(running.redis.url, "llm.chat", [REQUEST], "batch")
            if batch:
                messages.push(int(2 * (SETTLE_S + seconds) * SLOTS / LATENCY_S))
            began = time.monotonic() + SETTLE_S
            sent = _chat(running.redis.url, SETTLE_S + seconds) if chats else {}
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            ended = time.monotonic()
            sent = {name: at for name, at in sent.items() if at >= began}
            give_up = time.monotonic() + PATIENCE_S
            running.until(lambda: _begun(server, sent) or time.monotonic() > give_up)
            moments = server.moments()
            answered = [name for name, at in moments.items() if began <= at[2] < ended]
            messages.close()
            first_token_s = LATENCY_S / TOKENS
            return {
                "answers_per_s": len(answered) / (ended - began),
                "batch_per_s": sum(map(messages.is_mine, answered)) / (ended - began),
                "ttft_ms": [
                    1000 * ((moments.get(name, (0, 0, 0))[1] or give_up) + first_token_s - at)
                    for name, at in sent.items()
                ],
            }

    return measure


def _begun(server: BenchServer, names: Iterable[str]) -> bool:
    """Whether all these chats have a slot of the model server, or had one."""
    moments = server.moments()
    return all(name in moments and moments[name][1] for name in names)


def _chat(redis_url: str, seconds: float) -> dict[str, float]:
    """Send chats as people do; returns when each task was sent, `time.monotonic()`."""
    chance = random.Random(1)  # the same moments each time
    sent: dict[str, float] = {}
    until = time.monotonic() + seconds
    due = time.monotonic()
    with Celery(broker=redis_url, set_as_current=False) as app:
        while (due := due + chance.expovariate(CHATS_PER_S)) < until:
            time.sleep(max(0.0, due - time.monotonic()))
            at = time.monotonic()
            sent[app.send_task("llm.chat", kwargs=REQUEST, queue="interactive").id] = at
    return sent
