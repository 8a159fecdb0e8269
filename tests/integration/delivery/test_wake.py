"""Redis wakes a worker that found nothing, whichever of its lists the next message goes to."""

import asyncio
import json

import pytest
from redis.asyncio import Redis

from tests.integration.delivery.messages import LANES, message
from worker.delivery import keys
from worker.delivery.ledger import Ledger, Suspects
from worker.delivery.wake import listening
from worker.redis_client import RedisAddress

LISTS = [name for lane in LANES for queue in lane for name in keys.lists_of(queue)]


@pytest.mark.parametrize("name", [*LISTS, *keys.OTHER_WORK])
async def test_a_message_in_any_list_wakes_who_found_them_all_empty(
    client: Redis, delivery_url: str, name: str
) -> None:
    async with listening(RedisAddress(delivery_url)) as ears:
        assert ears.tracks
        found = await Ledger(ears.reader, "a").reserve(LANES, 8, 1, Suspects(0, 0, 8))
        assert not found.deliveries
        if name == keys.DELAYED:
            await client.hset(
                "kc:delayed:messages", "one", json.dumps(["default", message("one").decode(), "one"])
            )
            await client.zadd(name, {"one": 1})
        else:
            await client.lpush(name, message("one"))
        async with asyncio.timeout(2):
            assert await ears.next() is None
