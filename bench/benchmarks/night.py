"""A long batch on a real model server while somebody chats with it, both through the gateway."""

import contextlib
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai

from bench.benchmark import Column, Options, Plot, Result, Row, Target, percentile
from worker.local.celery_worker import LocalWorker
from worker.local.gateway import LocalGateway
from worker.local.llamacpp import LocalLlama
from worker.local.redis import LocalRedis

SLOTS = 4
LINES, LINE_TOKENS = 1000, 24
CHAT_TOKENS = 24
#: Seconds a person thinks before the next question.
THINKS_S = 0.7
#: Chats with nothing else going on.
ALONE = 120


class Night:
    """Time to first token at the person's end, without the batch and with it."""

    name = "night"
    quick = False

    def run(self, options: Options) -> Result:
        """Measure."""
        lines = 100 if options.quick else LINES
        with tempfile.TemporaryDirectory() as folder, _service(Path(folder)) as client:
            alone = [_chat(client, number) for number in range(10 + ALONE)][10:]
            options.console.print(f"  alone: p50 {1000 * percentile(alone, 0.5):.0f} ms")
            batch = _start(client, lines)
            began = time.monotonic()
            _until(client, batch, 4 * SLOTS)
            beside: list[float] = []
            over = threading.Event()
            watching = threading.Thread(target=_watch, args=(client, batch, over))
            watching.start()
            while not over.is_set():
                beside.append(_chat(client, len(beside)))
            watching.join()
            took_s = time.monotonic() - began
            found = client.batches.retrieve(batch)
            if found.status != "completed" or found.error_file_id:
                raise RuntimeError(f"the batch did not end well: {found}")
        rows: list[Row] = [
            {"way": "chats alone", **_row(alone)},
            {"way": f"beside a batch of {lines:,} lines", **_row(beside), "lines_per_s": lines / took_s},
        ]
        slower = rows[1]["ttft_p99_ms"] / rows[0]["ttft_p99_ms"]
        return Result(
            title=f"A person beside a night's batch; llama.cpp with {SLOTS} slots",
            columns=(
                Column("way", "way"),
                Column("chats", "chats"),
                Column("ttft_p50_ms", "first token p50 ms"),
                Column("ttft_p99_ms", "p99 ms"),
                Column("lines_per_s", "lines/s", 2),
            ),
            rows=rows,
            targets=[Target("chats' first token, p99, of that without a batch", slower, 1.5, "<=")],
            notes=[
                "Both through the gateway: the batch by the Files and Batch API, the chats streamed.",
                f"SmolLM2-135M; lines of {LINE_TOKENS} tokens, chats of {CHAT_TOKENS}, {THINKS_S:g} s apart.",
                "The model server takes all CPUs it can get: each token of the batch slows a chat's prompt.",
            ],
            plots={"ttft": Plot("bars", "ttft_p99_ms", "chats: time to first token, p99, ms")},
        )


@contextlib.contextmanager
def _service(folder: Path) -> Iterator[openai.OpenAI]:
    with (
        LocalLlama(slots=SLOTS, context=512, embeddings=False, directory=folder / "llama") as llama,
        LocalRedis() as redis,
    ):
        llama.wait_ready()
        redis.wait_ready()
        with (
            LocalWorker(redis.url, llama.url, directory=folder / "worker") as worker,
            LocalGateway(redis.url, directory=folder / "gateway") as gateway,
            openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
        ):
            worker.wait_ready()
            gateway.wait_ready()
            while not client.models.list().data:  # as the worker's first report says
                time.sleep(0.1)
            yield client


def _chat(client: openai.OpenAI, number: int) -> float:
    """Seconds to the first word of an answer, after a moment of thinking."""
    time.sleep(THINKS_S * random.uniform(0.5, 1.5))
    model = client.models.list().data[0].id
    began = time.monotonic()
    first = None
    question = f"What is special about the number {number}?"
    for chunk in client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=CHAT_TOKENS,
        stream=True,
    ):
        if first is None and chunk.choices and chunk.choices[0].delta.content:
            first = time.monotonic() - began
    if first is None:
        raise RuntimeError("an empty answer")
    return first


def _start(client: openai.OpenAI, lines: int) -> str:
    asked = "".join(
        json.dumps(
            {
                "custom_id": str(number),
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {
                    "messages": [{"role": "user", "content": f"Write a story about the number {number}."}],
                    "max_tokens": LINE_TOKENS,
                },
            }
        )
        + "\n"
        for number in range(lines)
    )
    file = client.files.create(file=("night.jsonl", asked.encode()), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    ).id


def _until(client: openai.OpenAI, batch: str, done: int) -> None:
    while _completed(client, batch) < done:
        time.sleep(0.2)


def _completed(client: openai.OpenAI, batch: str) -> int:
    counts = client.batches.retrieve(batch).request_counts
    return counts.completed if counts else 0


def _watch(client: openai.OpenAI, batch: str, over: threading.Event) -> None:
    while client.batches.retrieve(batch).status in {"validating", "in_progress", "finalizing"}:
        time.sleep(2)
    over.set()


def _row(seconds: list[float]) -> Row:
    return {
        "chats": len(seconds),
        "ttft_p50_ms": 1000 * percentile(seconds, 0.5),
        "ttft_p99_ms": 1000 * percentile(seconds, 0.99),
    }
