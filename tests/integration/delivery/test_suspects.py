"""A message that kills its worker is found out, and does not take the others with it."""

from collections import Counter

import pytest
from redis.asyncio import Redis

from tests.integration.delivery.conftest import Hire
from tests.integration.delivery.ledgers import Clock, Clocked
from tests.integration.delivery.messages import message, outcome
from worker.delivery.ledger import Delivery


async def fill_places(worker: Clocked, places: int) -> list[Delivery]:
    """Take as a worker does with so many places: until there is nothing more for it."""
    held: list[Delivery] = []
    while len(held) < places:
        found = (await worker.take(places - len(held), held=held, breadth=places)).deliveries
        if not found:
            break
        held += found
    return held


async def finish(worker: Clocked, held: list[Delivery]) -> None:
    for one in held:
        if one.mark == "dead":
            value = outcome("FAILURE", one.task_id)
            assert await worker.bury(one.token, "Its workers died.", value, 60)
        else:
            assert await worker.store(one.task_id, one.token, outcome("SUCCESS", one.task_id), 60) == 1
    await worker.acknowledge([one.token for one in held])


async def die(client: Redis, clock: Clock, survivor: Clocked) -> None:
    """Nobody renews the leases; another worker takes them back."""
    await clock.forward(client, 61)
    await survivor.recover(pause_s=1e6, grace_s=0)


@pytest.mark.parametrize("places", [1, 10, 256, 2000])
@pytest.mark.parametrize("fresh", [0, 7])
@pytest.mark.parametrize("allowed", [3, 5, 12])
async def test_a_killer_is_a_dead_letter_in_the_end_and_nobody_else_with_it(
    client: Redis, clock: Clock, hire: Hire, places: int, fresh: int, allowed: int
) -> None:
    a, b = hire("a", max_deliveries=allowed), hire("b", max_deliveries=allowed)
    names = [f"{number}" for number in range(40)]
    await client.lpush("default", *(message(name) for name in [*names[:20], "killer", *names[20:]]))
    deaths: Counter[str] = Counter()
    finished: set[str] = set()
    for round_number in range(200):
        held = await fill_places(a, places)
        if not held:
            break
        alive = [one for one in held if one.mark != "dead"]
        if "killer" in {one.task_id for one in alive}:
            deaths.update(one.task_id for one in held)
            await die(client, clock, b)
            assert deaths["killer"] <= allowed
            new = [f"new-{round_number}-{number}" for number in range(fresh)]
            if new:
                names += new
                await client.lpush("default", *map(message, new))
        else:
            finished |= {one.task_id for one in held}
            await finish(a, held)
    assert deaths.pop("killer") == allowed
    assert await client.zscore("kc:dead", "killer")
    assert finished == {*names, "killer"}
    assert max(deaths.values(), default=0) < min(allowed, 5)


async def test_suspects_are_taken_whatever_number_of_deaths_a_worker_allows(
    client: Redis, clock: Clock, hire: Hire
) -> None:
    patient, hasty = hire("patient", max_deliveries=100), hire("hasty", max_deliveries=2)
    await client.lpush("default", message("x"))
    for deaths in range(7):
        [found] = (await patient.take()).deliveries
        assert (found.deaths, found.mark) == (deaths, "")
        await die(client, clock, hasty)
    [found] = (await hasty.take()).deliveries
    assert (found.deaths, found.mark) == (7, "dead")


async def test_what_was_given_back_often_enough_without_an_outcome_is_dead(client: Redis, a: Clocked) -> None:
    await client.lpush("default", message("x"))
    for _ in range(5):
        [found] = (await a.take()).deliveries
        assert found.mark == ""
        await a.give_back([found.token], {"event": "rejected"}, counts=True)
    [found] = (await a.take()).deliveries
    assert (found.deaths, found.mark) == (5, "dead")


async def test_a_dead_letter_keeps_what_happened_and_is_replayed_once_and_from_the_beginning(
    client: Redis, clock: Clock, a: Clocked, b: Clocked
) -> None:
    await client.lpush("batch", message("x"))
    [first] = (await a.take()).deliveries
    await die(client, clock, b)
    [second] = (await b.take()).deliveries
    assert await b.bury(second.token, "Enough.", outcome("FAILURE", "x"), 60)
    entry = await client.hget("kc:dead:entries", "x")  # type: ignore[misc]
    assert b'"reason":"Enough."' in entry
    assert b"worker lost" in entry
    assert await a.replay("x")
    assert not await a.replay("x")
    [again] = (await a.take()).deliveries
    assert (again.raw, again.queue, again.mark, again.deaths) == (first.raw, "batch", "", 0)


async def test_bytes_that_are_no_message_are_dead_letters_and_come_out_as_they_were(
    client: Redis, a: Clocked
) -> None:
    everything = bytes(range(256))
    await client.lpush("default", everything, b"", b"[]", b'{"properties": 1}', message("good"))
    assert [one.task_id for one in (await a.take()).deliveries] == ["good"]
    dead = [name.decode() for name in await client.zrange("kc:dead", 0, -1)]
    assert len(dead) == 4
    for name in dead:
        assert await a.replay(name)
    raws = await client.lrange("default", 0, -1)
    assert sorted(raws) == sorted([everything, b"", b"[]", b'{"properties": 1}'])


async def test_an_id_that_is_not_text_does_not_stop_the_worker(client: Redis, a: Clocked) -> None:
    await client.lpush("default", b'{"headers": {"id": "\xff"}, "properties": {}}', message("good"))
    strange, good = (await a.take()).deliveries
    assert good.task_id == "good"
    assert await a.bury(strange.token, "It is not UTF-8.")
