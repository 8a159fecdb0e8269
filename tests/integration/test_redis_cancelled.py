"""A task that waits for Redis can be cancelled at any moment."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from worker.delivery.ledger import Ledger
from worker.redis_client import RedisAddress

NAMES = [f"none-{number}" for number in range(64)]


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.mget(NAMES),
        lambda client: client.blpop(NAMES[:1], 0.5),
        lambda client: Ledger(client).settle(NAMES, 60),
    ],
    ids=["a command", "a wait", "a script"],
)
async def test_no_cancellation_is_lost(redis_url: str, ask: Callable[[Any], Awaitable[Any]]) -> None:
    async with RedisAddress(redis_url).connect(4) as client:

        async def go_on() -> None:
            while True:
                await ask(client)

        for _ in range(60):
            going = asyncio.create_task(go_on())
            await asyncio.sleep(random.uniform(0.001, 0.02))
            going.cancel()
            done, _ = await asyncio.wait((going,), timeout=2)
            assert done, "who was cancelled goes on"
        assert await client.ping(), "and the connections are as good as before"
