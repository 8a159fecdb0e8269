"""dramatiq with its asyncio middleware: `dramatiq bench.peers.dramatiq_app --processes 1 --threads 256`.

An asynchronous actor runs on one loop, and a thread waits for it.
"""

from typing import Any

import aiohttp
import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware.asyncio import AsyncIO
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.peers import model
from bench.peers.producing import produce

# A connection for each thread; redis-py allows 100 unless told.
URL = f"{model.REDIS_URL}?max_connections={2 * model.IN_FLIGHT + 32}"

broker = RedisBroker(url=URL)
broker.add_middleware(AsyncIO())
broker.add_middleware(
    Results(backend=RedisBackend(url=URL, use_namespace_prefix_keys=True), store_results=True)
)
dramatiq.set_broker(broker)
_sessions: list[aiohttp.ClientSession] = []


@dramatiq.actor
async def chat(**request: Any) -> dict[str, Any]:
    """The task."""
    if not _sessions:
        _sessions.append(model.session())
    return await model.chat(_sessions[0], request)


async def send() -> "dramatiq.Message[Any]":
    """Enqueue one."""
    return chat.send(**model.REQUEST)


async def ask() -> object:
    """Enqueue one and wait; blocking, there is nothing else to do."""
    return chat.send(**model.REQUEST).get_result(block=True)


if __name__ == "__main__":
    produce(send, ask)
