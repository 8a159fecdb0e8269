"""`options.stream`: what a task says is in Redis while it says it, whole, and ends once."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from celery import Celery
from redis.asyncio import Redis

from tests.conftest import WorkerFactory
from worker.delivery.following import Entry, Follower
from worker.local.celery_worker import LocalWorker
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted
from worker.redis_client import RedisAddress

#: The scripted server says again what it was told, over LATENCY_S seconds.
LATENCY_S = 2.0
WORDS = " ".join(f"word-{number}" for number in range(300))


@pytest.fixture(scope="module")
def server() -> Iterator[LocalScripted]:
    with LocalScripted("vllm", latency_s=LATENCY_S, tokens=5000) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalRedis]:
    with LocalRedis() as broker:
        broker.wait_ready()
        yield broker


@pytest.fixture
def redis_url(broker: LocalRedis) -> str:
    return broker.url


@pytest.fixture(scope="module")
def streaming(
    broker: LocalRedis, server: LocalScripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalWorker]:
    folder = tmp_path_factory.mktemp("streaming")
    with LocalWorker(broker.url, server.url, backend="vllm", directory=folder) as worker:
        worker.wait_ready()
        yield worker


@pytest.fixture
async def follower(redis_url: str) -> AsyncIterator[Follower]:
    async with Follower(RedisAddress(redis_url)) as follower:
        yield follower


def send(producer: Celery, words: str = WORDS, **options: Any) -> str:
    kwargs = {"messages": [{"role": "user", "content": words}], "options": {"stream": True, **options}}
    return producer.send_task("llm.chat", kwargs=kwargs).id


async def read(follower: Follower, task_id: str, after: str = "0-0") -> list[Entry]:
    async with asyncio.timeout(60):
        return [entry async for entry in follower.stream(task_id, after)]


def text_of(entries: list[Entry]) -> str:
    return "".join(entry.text for entry in entries if entry.type == "chunk")


async def test_a_stream_is_the_answer_in_few_entries_and_ends_with_it(
    streaming: LocalWorker, producer: Celery, follower: Follower, redis_url: str
) -> None:
    task_id = send(producer)
    entries = await read(follower, task_id)
    outcome = await follower.outcome(task_id)
    assert text_of(entries) == outcome.result["choices"][0]["message"]["content"] == WORDS
    assert [entry.seq for entry in entries] == list(range(len(entries)))
    assert [entry.type for entry in entries if entry.ends] == ["done"] == [entries[-1].type]
    first_ms, last_ms = (int(entries[place].id.split("-")[0]) for place in (0, -1))
    assert 5 <= len(entries) <= (last_ms - first_ms) / 50 + 3
    async with Redis.from_url(redis_url) as client:
        assert 0 < await client.ttl(f"kc:stream:{task_id}") <= 3600
        names = {name for _, fields in await client.xrange(f"kc:stream:{task_id}") for name in fields}
    assert names == {b"type", b"text", b"seq"}


async def test_a_reader_that_comes_back_misses_nothing_and_hears_nothing_twice(
    streaming: LocalWorker, producer: Celery, redis_url: str
) -> None:
    task_id = send(producer)
    heard: list[Entry] = []
    while not heard or not heard[-1].ends:
        async with Follower(RedisAddress(redis_url)) as follower:
            patience = random.randrange(1, 12)
            async for entry in follower.stream(task_id, heard[-1].id if heard else "0-0"):
                heard.append(entry)
                patience -= 1
                if not patience:
                    break
    assert text_of(heard) == WORDS
    assert [entry.seq for entry in heard] == list(range(len(heard)))


async def test_hundreds_of_readers_share_one_copy_and_a_slow_one_holds_nobody_up(
    streaming: LocalWorker, producer: Celery, follower: Follower, redis_url: str
) -> None:
    task_id = send(producer)
    slow_heard: list[Entry] = []

    async def read_slowly() -> None:
        async for entry in follower.stream(task_id):
            slow_heard.append(entry)
            await asyncio.sleep(0.2)

    slow = asyncio.create_task(read_slowly())
    async with Redis.from_url(redis_url) as client:
        before = len(await client.client_list())
        readers = [asyncio.create_task(read(follower, task_id)) for _ in range(500)]
        while not any(reader.done() for reader in readers):
            connections = len(await client.client_list())
            await asyncio.sleep(0.05)
    texts = {text_of(entries) for entries in await asyncio.gather(*readers)}
    assert texts == {WORDS}
    assert connections <= before + 4
    assert not slow.done()
    await slow
    assert text_of(slow_heard) == WORDS


async def test_a_reader_that_comes_late_reads_all_at_once(
    streaming: LocalWorker, producer: Celery, follower: Follower
) -> None:
    task_id = send(producer)
    await follower.outcome(task_id)
    entries = await read(follower, task_id)
    assert text_of(entries) == WORDS
    assert await read(follower, task_id, entries[-1].id) == []


async def test_a_cancelled_task_ends_its_stream(
    streaming: LocalWorker, producer: Celery, follower: Follower
) -> None:
    task_id = send(producer)
    entries = []
    async for entry in follower.stream(task_id):
        entries.append(entry)
        if len(entries) == 3:
            producer.control.revoke(task_id)
    assert 0 < len(text_of(entries)) < len(WORDS)
    assert (entries[-1].type, entries[-1].text) == ("error", "Cancelled.")
    assert await read(follower, task_id) == entries


async def test_a_task_that_fails_before_it_says_anything_tells_its_readers_why(
    streaming: LocalWorker, producer: Celery, follower: Follower
) -> None:
    kwargs = {"messages": "not a list", "options": {"stream": True}}
    task_id = producer.send_task("llm.chat", kwargs=kwargs).id
    (entry,) = await read(follower, task_id)
    assert entry.type == "error"
    assert entry.text.startswith("InvalidTask: `messages`")


async def test_a_task_that_fails_in_mid_answer_keeps_what_it_said_and_says_why(
    streaming: LocalWorker, producer: Celery, follower: Follower
) -> None:
    task_id = send(producer, deadline_s=LATENCY_S / 2)
    entries = await read(follower, task_id)
    assert 0 < len(text_of(entries)) < len(WORDS)
    assert entries[-1].type == "error"
    assert entries[-1].text.startswith("DeadlineExceeded: ")


async def test_who_gets_the_result_of_another_task_streams_it_too(
    streaming: LocalWorker, producer: Celery, follower: Follower
) -> None:
    first = send(producer, idempotency_key="streamed")
    await follower.outcome(first)
    entries = await read(follower, send(producer, idempotency_key="streamed"))
    assert text_of(entries) == WORDS
    assert entries[-1].type == "done"


async def test_after_its_worker_died_a_task_begins_its_stream_anew(
    fresh_redis: LocalRedis, server: LocalScripted, worker: WorkerFactory
) -> None:
    url = fresh_redis.url
    settings = {"WORKER_LEASE_S": "2"}
    first = worker(redis_url=url, llm_url=server.url, backend="vllm", env=settings)
    producer = Celery(broker=url, set_as_current=False)
    async with Follower(RedisAddress(url)) as follower:
        task_id = send(producer)
        entries: list[Entry] = []
        async for entry in follower.stream(task_id):
            entries.append(entry)
            if len(entries) == 5:
                first.process.kill()
                worker(redis_url=url, llm_url=server.url, backend="vllm", env=settings)
    producer.close()
    begins = [place for place, entry in enumerate(entries) if entry.seq == 0]
    assert len(begins) == 2
    assert text_of(entries[begins[-1] :]) == WORDS
    assert [entry.type for entry in entries if entry.ends] == ["done"]


async def test_readers_wait_while_redis_is_away(
    tmp_path: Any, server: LocalScripted, worker: WorkerFactory
) -> None:
    with contextlib.ExitStack() as servers:
        redis = servers.enter_context(LocalRedis(directory=tmp_path, persist=True))
        redis.wait_ready()
        worker(redis_url=redis.url, llm_url=server.url, backend="vllm")
        producer = Celery(broker=redis.url, set_as_current=False)
        async with Follower(RedisAddress(redis.url)) as follower:
            task_id = send(producer)
            entries: list[Entry] = []
            async for entry in follower.stream(task_id):
                entries.append(entry)
                if len(entries) == 3:
                    async with Redis.from_url(redis.url) as client:
                        await client.config_set("appendfsync", "always")
                elif len(entries) == 5:
                    redis.process.kill()
                    redis.process.wait()
                    await asyncio.sleep(0.5)
                    redis = servers.enter_context(
                        LocalRedis(port=redis.port, directory=tmp_path, persist=True)
                    )
        producer.close()
    assert text_of(entries) == WORDS
    assert entries[-1].type == "done"


async def test_no_id_of_an_entry_is_refused(follower: Follower) -> None:
    with pytest.raises(ValueError, match="'tomorrow' is not the id of an entry"):
        await read(follower, "whatever", "tomorrow")
