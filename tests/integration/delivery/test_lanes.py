"""In what order messages of several queues are taken."""

from itertools import pairwise

import pytest
from redis.asyncio import Redis

from tests.integration.delivery.ledgers import Clocked
from tests.integration.delivery.messages import PRIORITIES, QUEUES, message


async def fill(client: Redis, queues: list[str], count: int) -> None:
    for queue in queues:
        await client.lpush(queue, *(message(f"{queue}-{number}") for number in range(count)))


async def taken_queues(worker: Clocked, count: int, at_once: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        deliveries = (await worker.take(min(at_once, count - len(found)))).deliveries
        assert deliveries
        found += [one.queue for one in deliveries]
    return found


@pytest.mark.parametrize("at_once", [1, 2, 3, 8, 64])
async def test_of_any_eight_messages_one_is_from_each_lane_that_waits(
    client: Redis, a: Clocked, at_once: int
) -> None:
    await fill(client, QUEUES, 70)
    order = await taken_queues(a, 64, at_once)
    for start in range(len(order) - 8):
        eight = order[start : start + 8]
        assert eight.count("interactive") == 6
        assert eight.count("default") + eight.count("celery") == 1
        assert eight.count("batch") == 1


@pytest.mark.parametrize("at_once", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("others", [["interactive", "batch"], ["interactive"], ["batch"], []])
async def test_queues_of_one_lane_take_turns_whatever_the_other_lanes_have(
    client: Redis, a: Clocked, at_once: int, others: list[str]
) -> None:
    await fill(client, ["default", "celery", *others], 70)
    order = [queue for queue in await taken_queues(a, 64, at_once) if queue in {"default", "celery"}]
    assert len(order) >= 8
    assert all(queue != following for queue, following in pairwise(order))


async def test_an_empty_lane_costs_the_others_nothing(client: Redis, a: Clocked) -> None:
    await fill(client, ["batch"], 20)
    assert await taken_queues(a, 20, 20) == ["batch"] * 20


async def test_the_last_lane_leaves_spare_places_to_the_others(client: Redis, a: Clocked) -> None:
    await fill(client, ["batch"], 20)
    taken = await a.take(8, spare=2)
    assert [one.queue for one in taken.deliveries] == ["batch"] * 6
    assert taken.more
    await fill(client, ["interactive"], 20)
    assert [one.queue for one in (await a.take(2, spare=2)).deliveries] == ["interactive"] * 2


async def test_a_worker_of_one_lane_uses_all_its_places(client: Redis, a: Clocked) -> None:
    await fill(client, ["batch"], 20)
    assert len((await a.take(8, [["batch"]], spare=2)).deliveries) == 8


async def test_within_a_queue_priority_0_comes_first_and_then_the_oldest(client: Redis, a: Clocked) -> None:
    for suffix in reversed(PRIORITIES):
        await client.lpush("default" + suffix, message(f"old{suffix}"), message(f"new{suffix}"))
    found = (await a.take(10)).deliveries
    assert [one.task_id for one in found] == [age + suffix for suffix in PRIORITIES for age in ("old", "new")]
    assert {one.queue for one in found} == {"default"}


async def test_messages_given_back_come_first_and_in_the_order_they_were_taken(
    client: Redis, a: Clocked
) -> None:
    await client.lpush("default", *(message(name) for name in "123456"))
    tokens = [one.token for one in (await a.take(4)).deliveries]
    assert await a.give_back(tokens) == 4
    assert [one.task_id for one in (await a.take(6)).deliveries] == list("123456")


async def test_a_message_given_back_returns_to_its_priority(client: Redis, a: Clocked) -> None:
    await client.lpush("default" + PRIORITIES[3], message("late"))
    [late] = (await a.take(1)).deliveries
    await a.give_back([late.token])
    await client.lpush("default" + PRIORITIES[1], message("soon"))
    assert [one.task_id for one in (await a.take(2)).deliveries] == ["soon", "late"]
