"""What an operator is told of a Redis, and what becomes of dead letters, without any worker process."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from celery import Celery
from redis.asyncio import Redis

from tests.conftest import connected_producer
from worker.delivery import dead_letters
from worker.delivery.asking import ask, cancel_tasks
from worker.delivery.ledger import Ledger, Suspects
from worker.delivery.truth import QUEUES, QueueTruth, Truth, copies_waiting, look
from worker.errors import LocalError
from worker.local.child import free_port
from worker.local.redis import LocalRedis
from worker.redis_client import RedisAddress

LANES = [["interactive"], ["default", "celery"], ["batch"]]
NOBODY = Suspects(0, 0, 8)


@pytest.fixture
async def client(fresh_redis: LocalRedis) -> AsyncIterator[Redis]:
    client = RedisAddress(fresh_redis.url).connect()
    yield client
    await client.aclose()


@pytest.fixture
def ledger(client: Redis) -> Ledger:
    """A worker's."""
    return Ledger(client, "w1", max_deliveries=2)


async def push(client: Redis, task_id: str, queue: str = "default", **headers: Any) -> None:
    document = {
        "body": "W1tdLCB7fSwge31d",
        "headers": {"task": "llm.chat", "id": task_id, **headers},
        "properties": {"correlation_id": task_id, "body_encoding": "base64"},
    }
    await client.lpush(queue, json.dumps(document))


def queue(found: Truth, name: str) -> QueueTruth:
    (one,) = [one for one in found.queues if one.name == name]
    return one


async def test_an_empty_redis_has_nothing_to_do_and_stays_empty(client: Redis) -> None:
    found = await look(client)
    assert [one.name for one in found.queues] == list(QUEUES)
    assert all((one.waiting, one.oldest_s) == (0, None) for one in found.queues)
    assert (found.reserved, found.delayed, found.suspects, found.dead, found.workers) == (0, 0, 0, 0, [])
    assert await copies_waiting(client) == 0
    assert await client.keys("*") == []


async def test_waiting_counts_every_priority_and_the_oldest_is_by_when_it_was_sent(client: Redis) -> None:
    now = time.time()
    await push(client, "a", sent_at=now - 100)
    await push(client, "b", sent_at=now - 50)
    await push(client, "c", "default\x06\x169", sent_at=now - 300)
    found = queue(await look(client), "default")
    assert found.waiting == 3
    assert found.oldest_s is not None
    assert 300 <= found.oldest_s < 400


@pytest.mark.parametrize("sent_at", [None, "yesterday", -5, True, 4e9])
async def test_without_a_usable_time_the_oldest_is_by_when_it_was_first_seen(
    client: Redis, sent_at: Any
) -> None:
    await push(client, "a", sent_at=sent_at)
    first = queue(await look(client), "default").oldest_s
    assert first == 0
    while not queue(await look(client), "default").oldest_s:
        pass
    await push(client, "b")
    await client.rpop("default")
    assert queue(await look(client), "default").oldest_s == 0


async def test_what_no_task_is_counts_as_waiting_and_has_an_age(client: Redis) -> None:
    await client.lpush("batch", b"\x00\xff nonsense")
    found = queue(await look(client), "batch")
    assert (found.waiting, found.oldest_s) == (1, 0)


async def test_heads_are_forgotten_when_nothing_waits_and_in_any_case_after_a_day(client: Redis) -> None:
    await push(client, "a")
    await look(client)
    assert 0 < await client.ttl("kc:heads") <= 86400
    await client.delete("default")
    await look(client)
    assert await client.keys("*") == []


async def test_every_task_is_counted_once_wherever_it_is(client: Redis, ledger: Ledger) -> None:
    for name in ("held", "held", "lost", "later", "given up"):
        await push(client, name)
    await push(client, "waiting", "batch")
    taken = (await ledger.reserve(LANES[1:2], 5, 0, NOBODY)).deliveries
    by_id = {one.task_id: one.token for one in taken}
    await ledger.give_back([by_id["lost"]], {"event": "rejected"}, counts=True)
    await ledger.defer(by_id["later"], 100, {"event": "put off"})
    await ledger.bury(by_id["given up"], "Enough.")
    found = await look(client)
    assert sum(one.waiting for one in found.queues) == 1
    assert (found.reserved, found.suspects, found.delayed, found.dead) == (1, 1, 1, 1)
    assert await copies_waiting(client) == 1


async def test_a_live_workers_report_is_shown_and_its_queues_are_looked_at(
    client: Redis, ledger: Ledger
) -> None:
    await push(client, "a", "special")
    report = {
        "host": "h", "pid": 7, "held": 5, "limit": 9, "capacity": 8, "queues": ["special"], "running": 3, "at_gate": 4,
    }  # fmt: skip
    await ledger.renew([], report, 60)
    found = await look(client)
    assert queue(found, "special").waiting == 1
    (worker,) = found.workers
    assert (worker.name, worker.host, worker.pid, worker.queues) == ("w1", "h", 7, ["special"])
    assert (worker.held, worker.limit, worker.capacity) == (5, 9, 8)
    assert (found.running, found.parked) == (3, 2), "tasks, of which one may have several requests"


async def test_a_worker_of_another_version_may_say_less(client: Redis, ledger: Ledger) -> None:
    await ledger.renew([], {"held": 2, "queues": []}, 60)
    (worker,) = (await look(client)).workers
    assert (worker.held, worker.running, worker.parked) == (2, None, None)


async def test_a_worker_that_reports_no_more_is_no_live_worker(client: Redis, ledger: Ledger) -> None:
    await ledger.renew([], {"queues": []}, 0.01)
    while (await look(client)).workers:
        pass
    assert await client.hlen("kc:workers") == 1


async def bury(client: Redis, ledger: Ledger, *ids: str) -> None:
    for task_id in ids:
        await push(client, task_id)
        (one,) = (await ledger.reserve(LANES, 1, 0, NOBODY)).deliveries
        await ledger.bury(one.token, f"Of {task_id}.", json.dumps({"status": "FAILURE"}), 100)


async def test_dead_letters_are_listed_from_the_oldest_and_shown_with_their_history(
    client: Redis, ledger: Ledger
) -> None:
    await push(client, "b")
    for _ in range(2):
        (one,) = (await ledger.reserve(LANES, 1, 0, NOBODY)).deliveries
        await ledger.give_back([one.token], {"at": 1000, "event": "handed back"})
    (one,) = (await ledger.reserve(LANES, 1, 0, NOBODY)).deliveries
    await ledger.bury(one.token, "Enough.")
    await bury(client, ledger, "a")
    await client.zincrby("kc:dead", -1000, "b")
    found = [one async for one in dead_letters.dead_letters(client)]
    assert [one.id for one in found] == ["b", "a"]
    one = await dead_letters.dead_letter(client, "b")
    assert one is not None
    assert (one.task, one.queue, one.arguments) == ("llm.chat", "default", {"args": [], "kwargs": {}})
    assert one.history == [{"at": "1970-01-01T00:00:01+00:00", "event": "handed back"}] * 2
    assert await dead_letters.dead_letter(client, "nobody") is None


async def test_a_message_that_is_no_task_is_a_dead_letter_too(client: Redis, ledger: Ledger) -> None:
    raw = b"\x00\xff nonsense \xe2\x82\xac"
    await client.lpush("default", raw)
    await ledger.reserve(LANES, 1, 0, NOBODY)
    (one,) = [one async for one in dead_letters.dead_letters(client)]
    assert (one.task, one.queue, one.arguments) == ("", "default", None)
    assert one.message == raw.decode("utf-8", "replace")
    assert await dead_letters.replay(client, [one.id]) == [one.id]
    assert await client.lrange("default", 0, -1) == [raw]


async def test_a_replay_puts_a_dead_letter_back_once_and_forgets_its_failure(
    client: Redis, ledger: Ledger
) -> None:
    await bury(client, ledger, "a")
    answers = await asyncio.gather(*(dead_letters.replay(client, ["a", "nobody"]) for _ in range(5)))
    assert sorted(answers) == [[], [], [], [], ["a"]]
    assert await client.llen("default") == 1
    assert not await client.exists("celery-task-meta-a", "kc:dead", "kc:dead:entries")


async def test_a_purge_deletes_dead_letters_and_leaves_outcomes(client: Redis, ledger: Ledger) -> None:
    await bury(client, ledger, "a", "b")
    assert await dead_letters.purge(client, ["a", "nobody"]) == ["a"]
    assert await dead_letters.purge(client, ["a"]) == []
    assert [one.id async for one in dead_letters.dead_letters(client)] == ["b"]
    assert await client.exists("celery-task-meta-a") == 1
    assert await dead_letters.replay(client, ["a"]) == []


async def test_dead_letters_are_chosen_by_age(client: Redis, ledger: Ledger) -> None:
    await bury(client, ledger, "old", "new")
    await client.zincrby("kc:dead", -3_600_000, "old")
    assert await dead_letters.ids_of(client) == ["old", "new"]
    assert await dead_letters.ids_of(client, 1800) == ["old"]
    assert await dead_letters.ids_of(client, 7200) == []


def test_a_cancelled_task_is_over_for_whoever_waits_for_it(fresh_redis: LocalRedis) -> None:
    address = RedisAddress(fresh_redis.url)
    with connected_producer(fresh_redis.url) as producer:
        sent = sent_task(producer)
        assert cancel_tasks(address, [sent.id, "not sent yet"], 60) == {
            sent.id: "waiting",
            "not sent yet": "waiting",
        }
        assert sent.state == "REVOKED"
        assert cancel_tasks(address, [sent.id], 60) == {sent.id: "REVOKED"}


def test_a_redis_that_is_away_is_an_error_with_a_remedy() -> None:
    nowhere = RedisAddress(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(LocalError, match=r"cannot be used: .*kc-worker up"):
        ask(nowhere, look)


def sent_task(producer: Celery) -> Any:
    return producer.send_task("llm.chat", kwargs={}, queue="batch")
