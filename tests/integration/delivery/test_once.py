"""What several tasks are asked for is done by one of them."""

import asyncio

import pytest
from redis.asyncio import Redis

from tests.integration.delivery.ledgers import Clock, Clocked
from tests.integration.delivery.messages import message, outcome
from worker.delivery.once import fingerprint, first_result
from worker.errors import InvalidTask

NAME, ASKED = "kc:once:key", fingerprint("llm.chat", {"messages": []})


async def run(worker: Clocked, client: Redis, task_id: str) -> str:
    """Have a task run by this worker; its token."""
    await client.lpush("default", message(task_id))
    [found] = (await worker.take()).deliveries
    assert found.task_id == task_id
    return found.token


async def test_who_asks_first_does_it_and_asking_again_changes_nothing(client: Redis, a: Clocked) -> None:
    await run(a, client, "first")
    for _ in range(3):
        assert await a.once(NAME, "first", ASKED, 60) == ("mine", b"")
    assert 0 < await client.ttl(NAME) <= 60


async def test_a_second_one_waits_while_the_first_runs_and_gets_its_result(
    client: Redis, a: Clocked, b: Clocked
) -> None:
    token = await run(a, client, "first")
    assert await first_result(a, "key", "first", ASKED, 60) is None
    await run(b, client, "second")
    joined = asyncio.create_task(first_result(b, "key", "second", ASKED, 60))
    assert await b.once(NAME, "second", ASKED, 60) == ("wait", b"")
    await a.store("first", token, outcome("SUCCESS", "first", {"answer": 42}), 60)
    assert await joined == {"answer": 42}
    await a.acknowledge([token])
    assert await first_result(b, "key", "third", ASKED, 60) == {"answer": 42}


@pytest.mark.parametrize("status", ["FAILURE", "REVOKED"])
async def test_what_failed_is_done_anew(client: Redis, a: Clocked, b: Clocked, status: str) -> None:
    token = await run(a, client, "first")
    await a.once(NAME, "first", ASKED, 60)
    await a.store("first", token, outcome(status, "first"), 60)
    await run(b, client, "second")
    assert await b.once(NAME, "second", ASKED, 60) == ("mine", b"")
    await run(a, client, "third")
    assert await a.once(NAME, "third", ASKED, 60) == ("wait", b"")


@pytest.mark.parametrize("how", ["given back", "worker lost", "to be tried again", "acknowledged"])
async def test_a_second_one_takes_over_from_a_first_that_does_not_run(
    client: Redis, clock: Clock, a: Clocked, b: Clocked, how: str
) -> None:
    token = await run(a, client, "first")
    await a.once(NAME, "first", ASKED, 60)
    match how:
        case "given back":
            await a.give_back([token])
        case "worker lost":
            await clock.forward(client, 61)
            await b.recover(pause_s=1e6, grace_s=0)
        case "to be tried again":
            await a.defer(token, 60, {"event": "retry"})
        case _:
            await a.acknowledge([token])
    assert await b.once(NAME, "second", ASKED, 60) == ("mine", b"")


async def test_a_first_that_comes_again_waits_for_who_took_over(
    client: Redis, a: Clocked, b: Clocked
) -> None:
    token = await run(a, client, "first")
    await a.once(NAME, "first", ASKED, 60)
    await a.defer(token, 0, {"event": "retry"})
    second = Clocked(client, "second")
    await client.lpush("interactive", message("second"))
    [found] = (await second.take(1, [["interactive"]])).deliveries
    assert await second.once(NAME, found.task_id, ASKED, 60) == ("mine", b"")
    [again] = (await b.take()).deliveries
    assert again.task_id == "first"
    assert await b.once(NAME, "first", ASKED, 60) == ("wait", b"")


async def test_a_name_that_stands_for_something_else_is_refused(client: Redis, a: Clocked) -> None:
    await run(a, client, "first")
    await a.once(NAME, "first", ASKED, 60)
    with pytest.raises(InvalidTask, match="idempotency_key"):
        await first_result(a, "key", "second", fingerprint("llm.chat", {"messages": ["other"]}), 60)
