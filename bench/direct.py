"""The limit: the same chats by an asyncio client, without a queue. Prints what they took, as JSON.

    python -m bench.direct http://127.0.0.1:8000 --client worker --count 1000 --in-flight 256

It runs in a process of its own, so that its CPU can be told from what watches it.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from bench.peers import model
from worker.backends.base import BackendOptions, CallContext
from worker.backends.registry import create_backend

Chat = Callable[[dict[str, Any]], Awaitable[object]]


@asynccontextmanager
async def _client(given: argparse.Namespace) -> AsyncIterator[Chat]:
    """The worker's own client, or the one the peers have."""
    if given.client == "aiohttp":
        model.MODEL_URL = given.url
        async with model.session() as session:
            yield lambda request: model.chat(session, request)
        return
    options = BackendOptions((given.url,), max_concurrency=given.in_flight, pool_size=given.in_flight)
    backend = create_backend(given.kind, options)
    on_chunk = (lambda _: None) if given.stream else None
    try:
        yield lambda request: backend.chat(request, CallContext(), on_chunk)
    finally:
        await backend.aclose()


async def _run(given: argparse.Namespace, requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    waiting = iter(requests)
    took: list[float] = []

    async def caller(chat: Chat) -> None:
        for request in waiting:
            started = time.perf_counter()
            await chat(request)
            took.append(time.perf_counter() - started)

    async with _client(given) as chat:
        warm = [{**requests[0], "max_tokens": 1}] * given.in_flight
        await asyncio.gather(*map(chat, warm))
        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller(chat) for _ in range(given.in_flight)))
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "cpu_s": time.process_time() - cpu, "took": took}


def main() -> None:
    """Run it; requests are read from standard input where `--requests` says so."""
    parser = argparse.ArgumentParser(prog="python -m bench.direct", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--client", choices=("worker", "aiohttp"), default="worker")
    parser.add_argument("--kind", default="vllm", help="LLM_BACKEND")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--requests", action="store_true", help="read them, a JSON list, from standard input")
    given = parser.parse_args()
    requests = json.load(sys.stdin) if given.requests else [model.REQUEST] * given.count
    json.dump(uvloop.run(_run(given, requests)), sys.stdout)


if __name__ == "__main__":
    main()
