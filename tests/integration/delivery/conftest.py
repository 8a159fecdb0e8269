"""A database of its own, emptied before each test, whose time the test decides."""

from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from tests.integration.delivery.ledgers import Clock, Clocked
from worker.redis_client import RedisAddress

Hire = Callable[..., Clocked]


@pytest.fixture
def delivery_url(redis_url: str) -> str:
    return redis_url.removesuffix("/0") + "/9"


@pytest.fixture
async def client(delivery_url: str) -> AsyncIterator[Redis]:
    client = RedisAddress(delivery_url).connect()
    await client.flushdb()
    yield client
    await client.flushdb()
    await client.aclose()


@pytest.fixture
async def clock(client: Redis) -> Clock:
    clock = Clock()
    await clock.forward(client, 0)
    return clock


@pytest.fixture
def hire(client: Redis, clock: Clock) -> Hire:
    """`hire("b", lease_s=…, max_deliveries=…)`: another worker's ledger."""

    def hire(owner: str = "a", lease_s: float = 60, max_deliveries: int = 5) -> Clocked:
        return Clocked(client, owner, lease_s, max_deliveries)

    return hire


@pytest.fixture
def a(hire: Hire) -> Clocked:
    """A worker's ledger."""
    return hire("a")


@pytest.fixture
def b(hire: Hire) -> Clocked:
    """Another's."""
    return hire("b")
