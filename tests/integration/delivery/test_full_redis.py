"""Redis out of memory refuses producers; what is there is worked off, which makes room again."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from tests.integration.delivery.messages import LANES, message, outcome
from worker.delivery.ledger import Ledger, Suspects
from worker.local.redis import LocalRedis
from worker.redis_client import RedisAddress

NAMES = ["done", "back", "rejected", "later", "cancelled", "buried", "waiting"]


@pytest.fixture
async def full(fresh_redis: LocalRedis) -> AsyncIterator[Redis]:
    """A Redis that took some messages and then nothing more."""
    client = RedisAddress(fresh_redis.url).connect()
    await client.lpush("default", *(message(name) for name in NAMES))
    await client.config_set("maxmemory-policy", "noeviction")
    await client.config_set("maxmemory", "1")
    yield client
    await client.aclose()


async def test_a_producer_is_refused(full: Redis) -> None:
    with pytest.raises(OutOfMemoryError):
        await full.lpush("default", message("more"))


async def test_everything_delivery_does_still_works(full: Redis) -> None:
    worker = Ledger(full, "a", lease_s=0.001, max_deliveries=5)
    nobody = Suspects(0, 0, 256)
    deliveries = (await worker.reserve(LANES, 6, 0, nobody)).deliveries
    held = {one.task_id: one for one in deliveries}
    assert list(held) == NAMES[:6]
    assert await worker.renew([one.token for one in deliveries], {"held": 6}, 5) == (set(), set())
    assert await worker.store("done", held["done"].token, outcome("SUCCESS", "done", "x" * 10_000), 60) == 1
    assert await worker.acknowledge([held["done"].token]) == 1
    assert await worker.give_back([held["back"].token]) == 1
    assert await worker.give_back([held["rejected"].token], {"event": "rejected"}, counts=True) == 1
    assert await worker.defer(held["later"].token, 3600, {"event": "retry"})
    assert await worker.cancel("cancelled", outcome("REVOKED", "cancelled"), 60) == "running"
    assert await worker.bury(held["buried"].token, "Enough.", outcome("FAILURE", "buried"), 60)
    assert await worker.replay("buried")
    while await full.zcard("kc:lease"):  # the lease of what was cancelled is 1 ms long
        await worker.recover(pause_s=1e6, grace_s=0)
    assert await worker.once("kc:once:key", "a", "this", 60) == ("mine", b"")
    rest = (await worker.reserve(LANES, 10, 0, nobody)).deliveries
    assert {one.task_id for one in rest} == {"back", "rejected", "buried", "waiting"}


async def test_there_is_room_again_for_producers_once_there_is_memory(full: Redis) -> None:
    await full.config_set("maxmemory", "0")
    assert await full.lpush("default", message("more")) == len(NAMES) + 1
