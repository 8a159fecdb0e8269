"""The command line all peers share: see the package's docstring."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

#: Tasks a producer has on their way to Redis at once.
_AT_ONCE = 64


def produce(send: Callable[[], Awaitable[object]], ask: Callable[[], Awaitable[object]]) -> None:
    """Do what the command line says.

    Args:
        send: put one task in the queue.
        ask: put one task in the queue and wait for its result.
    """
    what, count = sys.argv[1], int(sys.argv[2])
    asyncio.run(_enqueue(send, count) if what == "enqueue" else _time(ask, count))


async def _enqueue(send: Callable[[], Awaitable[object]], count: int) -> None:
    for done in range(0, count, _AT_ONCE):
        await asyncio.gather(*(send() for _ in range(min(_AT_ONCE, count - done))))


async def _time(ask: Callable[[], Awaitable[object]], count: int) -> None:
    seconds = []
    await ask()  # opens the connections
    for _ in range(count):
        started = time.perf_counter()
        await ask()
        seconds.append(time.perf_counter() - started)
    json.dump(seconds, sys.stdout)
