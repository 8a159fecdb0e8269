"""What delivery costs, in counts that are the same on every machine."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.integration.delivery.messages import LANES, message
from worker.delivery.ledger import Ledger, Suspects
from worker.local.redis import LocalRedis
from worker.redis_client import RedisAddress

NOBODY = Suspects(0, 0, 256)


@pytest.fixture
async def client(fresh_redis: LocalRedis) -> AsyncIterator[Redis]:
    """The only client of a Redis."""
    client = RedisAddress(fresh_redis.url).connect()
    yield client
    await client.aclose()


async def reads(client: Redis) -> int:
    """How often Redis read from its clients."""
    return int((await client.info("stats"))["total_reads_processed"])


async def test_sixty_four_messages_are_reserved_renewed_and_acknowledged_in_a_round_trip_each(
    client: Redis,
) -> None:
    worker = Ledger(client, "a")
    await client.lpush("default", *(message(f"{number}") for number in range(192)))
    warm = [one.token for one in (await worker.reserve(LANES, 64, 0, NOBODY)).deliveries]
    await worker.renew(warm, {}, 5)
    await worker.acknowledge(warm)

    start = await reads(client)
    tokens = [one.token for one in (await worker.reserve(LANES, 64, 0, NOBODY)).deliveries]
    reserved = await reads(client)
    await worker.renew(tokens, {}, 5)
    renewed = await reads(client)
    assert await worker.acknowledge(tokens) == 64
    acknowledged = await reads(client)
    # One for the script, one for the question how many there were.
    assert [reserved - start, renewed - reserved, acknowledged - renewed] == [2, 2, 2]


async def test_a_message_costs_redis_as_many_commands_in_a_long_queue_as_in_a_short_one(
    client: Redis,
) -> None:
    worker = Ledger(client, "a")

    async def commands_for_64() -> int:
        before = int((await client.info("stats"))["total_commands_processed"])
        taken = await worker.reserve(LANES, 64, 0, NOBODY)
        await worker.acknowledge([one.token for one in taken.deliveries])
        return int((await client.info("stats"))["total_commands_processed"]) - before

    await client.lpush("default", *(message(f"warm-{number}") for number in range(64)))
    await commands_for_64()
    await client.lpush("default", *(message(f"{number}") for number in range(65)))
    short = await commands_for_64()
    await client.lpush("default", *(message(f"more-{number}") for number in range(20_000)))
    assert await commands_for_64() == short
