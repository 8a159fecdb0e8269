"""One live delivery a task, whoever is slow, frozen or late."""

import pytest
from redis.asyncio import Redis

from tests.integration.delivery.conftest import Hire
from tests.integration.delivery.ledgers import Clock, Clocked
from tests.integration.delivery.messages import message, outcome
from tests.integration.delivery.view import REMAINS


async def stored(client: Redis, task_id: str) -> bytes | None:
    found: bytes | None = await client.get(f"celery-task-meta-{task_id}")
    return found


async def test_a_copy_waits_for_the_outcome_and_gives_way(client: Redis, a: Clocked, b: Clocked) -> None:
    await client.lpush("default", message("x"), message("x"))
    await client.lpush("batch", message("x"))
    [live] = (await a.take()).deliveries
    assert not (await b.take()).deliveries
    assert await a.store("x", live.token, outcome("SUCCESS", "x"), 60) == 1
    await a.acknowledge([live.token])
    assert not (await b.take()).deliveries
    assert set(await client.keys("kc:*")) <= REMAINS


async def test_a_copy_takes_over_where_there_is_no_outcome(client: Redis, a: Clocked, b: Clocked) -> None:
    await client.lpush("default", message("x"), message("x"))
    [live] = (await a.take()).deliveries
    await a.acknowledge([live.token])
    [copy] = (await b.take()).deliveries
    assert copy.raw != live.raw


@pytest.mark.parametrize("how", ["worker lost", "given back", "to be tried again"])
async def test_copies_of_a_task_that_is_cancelled_while_it_waits_again_leave_nothing(
    client: Redis, clock: Clock, a: Clocked, b: Clocked, how: str
) -> None:
    await client.lpush("default", message("x"), message("x"))
    [live] = (await a.take()).deliveries
    match how:
        case "worker lost":
            await clock.forward(client, 61)
            assert await b.recover(pause_s=1e6, grace_s=0) == 1
        case "given back":
            await a.give_back([live.token])
        case _:
            await a.defer(live.token, 3600, {"event": "retry"})
    assert await a.cancel("x", outcome("REVOKED", "x"), 60) == "waiting"
    assert not (await b.take()).deliveries
    assert set(await client.keys("kc:*")) <= REMAINS


async def test_a_worker_that_froze_can_neither_store_nor_acknowledge_what_another_took_over(
    client: Redis, clock: Clock, a: Clocked, b: Clocked
) -> None:
    await client.lpush("default", message("x"))
    [frozen] = (await a.take()).deliveries
    await b.recover(pause_s=1e6, grace_s=0)
    await clock.forward(client, 61)
    await b.recover(pause_s=1e6, grace_s=0)
    late = outcome("SUCCESS", "x", "late")
    assert await a.store("x", frozen.token, late, 60) == -1
    [live] = (await b.take()).deliveries
    assert int(live.token) > int(frozen.token)
    assert await a.store("x", frozen.token, late, 60) == -1
    assert await a.acknowledge([frozen.token]) == 0
    assert await a.give_back([frozen.token]) == 0
    assert not await a.defer(frozen.token, 1, {})
    assert not await a.bury(frozen.token, "late", late, 60)
    assert await a.renew([frozen.token], {}, 5) == ({frozen.token}, set())
    right = outcome("SUCCESS", "x", "right")
    assert await b.store("x", live.token, right, 60) == 1
    assert await b.store("x", live.token, late, 60) == 0
    assert await stored(client, "x") == right.encode()


async def test_no_token_is_used_again_after_redis_came_back_with_an_older_state(
    client: Redis, clock: Clock, a: Clocked, b: Clocked
) -> None:
    await client.lpush("default", message("before"))
    [lost] = (await a.take()).deliveries
    await client.flushdb()
    await clock.forward(client, 0.5)
    await client.lpush("default", message("after"))
    [live] = (await b.take()).deliveries
    assert int(live.token) > int(lost.token)
    assert await a.acknowledge([lost.token]) == 0


async def test_tokens_rise_where_the_clock_stands_still_or_goes_back(
    client: Redis, clock: Clock, a: Clocked
) -> None:
    await client.lpush("default", *(message(f"{number}") for number in range(9)))
    tokens = []
    for seconds in (0, 0, -3600):
        await clock.forward(client, seconds)
        tokens += [int(one.token) for one in (await a.take(3)).deliveries]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 9


async def test_states_on_the_way_are_stored_and_an_outcome_is_final(client: Redis, a: Clocked) -> None:
    await client.lpush("default", message("x"))
    [live] = (await a.take()).deliveries
    for status, answer in [("STARTED", 1), ("RETRY", 1), ("FAILURE", 1), ("SUCCESS", 0), ("STARTED", 0)]:
        assert await a.store("x", live.token, outcome(status, "x"), 60) == answer
    assert await stored(client, "x") == outcome("FAILURE", "x").encode()


async def test_who_runs_a_cancelled_task_is_told_and_its_answer_refused(client: Redis, a: Clocked) -> None:
    await client.lpush("default", message("x"), message("y"))
    x, y = (await a.take()).deliveries
    async with client.pubsub() as ears:
        await ears.subscribe("kc:cancel")
        assert await a.cancel("x", outcome("REVOKED", "x"), 60) == "running"
        while (heard := await ears.get_message(timeout=5)) and heard["type"] != "message":
            pass
        assert heard
        assert heard["data"] == b"x"
    assert await a.renew([x.token, y.token], {}, 5) == (set(), {x.token})
    assert await a.store("x", x.token, outcome("SUCCESS", "x"), 60) == 0
    assert await a.cancel("x", outcome("REVOKED", "x"), 60) == "REVOKED"


async def test_a_part_of_a_chord_that_has_its_outcome_is_delivered_to_say_so(
    client: Redis, a: Clocked
) -> None:
    await client.set("celery-task-meta-x", outcome("SUCCESS", "x"))
    await client.lpush("default", message("x"), message("x", group="g"))
    [found] = (await a.take()).deliveries
    assert found.mark == "done"


async def test_leases_of_different_lengths_end_each_in_its_time(
    client: Redis, clock: Clock, hire: Hire
) -> None:
    short, long, sweeper = hire("short", lease_s=60), hire("long", lease_s=120), hire("sweeper")
    await client.lpush("default", message("x"), message("y"))
    await short.take(1)
    [kept] = (await long.take(1)).deliveries
    await sweeper.recover(pause_s=1e6, grace_s=0)
    await clock.forward(client, 61)
    assert await sweeper.recover(pause_s=1e6, grace_s=0) == 1
    assert await long.renew([kept.token], {}, 5) == (set(), set())
    await clock.forward(client, 119)
    assert await sweeper.recover(pause_s=1e6, grace_s=0) == 0
    await clock.forward(client, 1)
    assert await sweeper.recover(pause_s=1e6, grace_s=0) == 1


async def test_after_a_pause_workers_get_a_grace_to_renew_what_ran_out_meanwhile(
    client: Redis, clock: Clock, a: Clocked, b: Clocked
) -> None:
    await client.lpush("default", message("alive"), message("lost"))
    alive, _lost = (await a.take()).deliveries
    await b.recover(pause_s=15, grace_s=10)
    await clock.forward(client, 300)
    assert await b.recover(pause_s=15, grace_s=10) == 0
    await clock.forward(client, 9)
    assert await a.renew([alive.token], {}, 5) == (set(), set())
    assert await b.recover(pause_s=15, grace_s=10) == 0
    await clock.forward(client, 2)
    assert await b.recover(pause_s=15, grace_s=10) == 1
    [taken_over] = (await b.take()).deliveries
    assert (taken_over.task_id, taken_over.deaths) == ("lost", 1)


async def test_a_worker_whose_report_is_old_is_forgotten(
    client: Redis, clock: Clock, a: Clocked, b: Clocked
) -> None:
    await a.renew([], {"held": 0}, 5)
    await clock.forward(client, 4)
    await b.renew([], {"held": 0}, 5)
    await clock.forward(client, 2)
    await b.recover(pause_s=15, grace_s=10)
    assert await client.hkeys("kc:workers") == [b"b"]  # type: ignore[misc]
    await b.leave()
    assert not await client.exists("kc:workers")
