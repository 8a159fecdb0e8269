"""A long batch on a real model server while somebody chats with it, both through the gateway."""

import contextlib
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
#: Chats measured where there is no batch to its end.
CHATS = 100


class Night:
    """Time to first token at the person's end, without the batch and with it."""

    name = "night"
    quick = False

    def run(self, options: Options) -> Result:
        """Measure."""
        lines, chats = (100, 30) if options.quick else (LINES, CHATS)
        with tempfile.TemporaryDirectory() as folder, _service(Path(folder)) as (client, server):
            # The server itself, without a queue: what one line beside a chat costs it.
            itself = _chats(server, chats)
            with _lines_at_a_time(server):
                itself_beside = _chats(server, chats)
            alone = _chats(client, chats)
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
            {"way": "the server itself, chats alone", **_row(itself)},
            {"way": "the server itself, one line at a time beside them", **_row(itself_beside)},
            {"way": "kc-worker, chats alone", **_row(alone)},
            {
                "way": f"kc-worker, beside a batch of {lines:,} lines",
                **_row(beside),
                "lines_per_s": lines / took_s,
            },
        ]
        slower = rows[3]["ttft_p99_ms"] / rows[2]["ttft_p99_ms"]
        of_the_servers = slower / (rows[1]["ttft_p99_ms"] / rows[0]["ttft_p99_ms"])
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
            targets=[
                Target("chats' first token, p99, of that without a batch", slower, 1.5, "<="),
                Target("that, of what one line at a time costs the server itself", of_the_servers, 1.1, "<="),
            ],
            notes=[
                "Both through the gateway: the batch by the Files and Batch API, the chats streamed.",
                f"SmolLM2-135M; lines of {LINE_TOKENS} tokens, chats of {CHAT_TOKENS}, {THINKS_S:g} s apart.",
                "The model server takes all CPUs it can get: each token of the batch slows a chat's prompt.",
            ],
            plots={"ttft": Plot("bars", "ttft_p99_ms", "chats: time to first token, p99, ms")},
        )


@contextlib.contextmanager
def _service(folder: Path) -> Iterator[tuple[openai.OpenAI, openai.OpenAI]]:
    """Clients of the gateway, and of the model server behind it."""
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
            openai.OpenAI(base_url=f"{llama.url}/v1", api_key="none", max_retries=0) as server,
        ):
            worker.wait_ready()
            gateway.wait_ready()
            while not client.models.list().data:  # as the worker's first report says
                time.sleep(0.1)
            yield client, server


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


def _chats(client: openai.OpenAI, count: int) -> list[float]:
    return [_chat(client, number) for number in range(10 + count)][10:]


@contextlib.contextmanager
def _lines_at_a_time(server: openai.OpenAI) -> Iterator[None]:
    over = threading.Event()

    def ask() -> None:
        number = 0
        while not over.is_set():
            number += 1
            server.chat.completions.create(model="any", **_line(number))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


def _line(number: int) -> dict[str, Any]:
    story = f"Write a story about the number {number}."
    return {"messages": [{"role": "user", "content": story}], "max_tokens": LINE_TOKENS}


def _start(client: openai.OpenAI, lines: int) -> str:
    url = "/v1/chat/completions"
    asked = (
        {"custom_id": str(number), "method": "POST", "url": url, "body": _line(number)}
        for number in range(lines)
    )
    content = "".join(json.dumps(line) + "\n" for line in asked)
    file = client.files.create(file=("night.jsonl", content.encode()), purpose="batch")
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
