"""`story.continue` through real workers: on llama.cpp by its own counters, killed, cancelled, and by two at once."""

import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import redis
import sqlalchemy as sa
from celery import Celery

from tests.conftest import WorkerFactory
from tests.faults.scale import scaled
from worker.database.engine import Database
from worker.database.line import Key
from worker.database.stories import Said, find, messages
from worker.database.tables import MESSAGE, STORY, TURN, WAITING
from worker.local.llamacpp import LocalLlama, bundled_model
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted
from worker.producer import Producer
from worker.redis_client import RedisAddress

WAIT_S = 120


def until(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    give_up = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return found


def send(producer: Celery, session: str, prompt: str, **more: Any) -> Any:
    arguments = {"session_id": session, "prompt": prompt, "max_tokens": 32, **more}
    return producer.send_task("story.continue", kwargs=arguments, queue="interactive")


def said(url: str, session: str) -> list[Said]:
    with Database(url) as database:
        return database.read(lambda connection: messages(connection, Key("", session)))


@pytest.fixture
def redis_url(fresh_redis: LocalRedis) -> str:
    """Of this test alone: no other worker takes its tasks."""
    return fresh_redis.url


def standing(database: Database) -> int:
    """How many have a place in a line."""
    count = sa.select(sa.func.count()).select_from(WAITING)
    return database.read(lambda connection: int(connection.execute(count).scalar_one()))


@pytest.fixture
def session() -> str:
    return f"story-{uuid4().hex[:8]}"


@pytest.fixture
def server() -> Iterator[Callable[..., LocalScripted]]:
    started: list[LocalScripted] = []

    def start(**options: Any) -> LocalScripted:
        started.append(LocalScripted(**options))
        started[-1].wait_ready()
        return started[-1]

    yield start
    for one in started:
        one.stop()


def prompt_tokens_read(url: str) -> int:
    """By llama.cpp's own counter: tokens of prompts it has processed."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as page:
        found = re.search(r"^llamacpp:prompt_tokens_total (\S+)$", page.read().decode(), re.MULTILINE)
    assert found
    return int(float(found[1]))


def test_thirty_turns_on_llama_cost_only_what_is_new_in_them(
    worker: WorkerFactory, producer: Celery, redis_url: str, session: str, tmp_path: Path
) -> None:
    with (
        LocalLlama(slots=2, context=1024, embeddings=False) as llama,
        redis.Redis.from_url(redis_url) as reader,
    ):
        llama.wait_ready()
        worker(llm_url=llama.url, env={"DATABASE_URL": f"sqlite:///{tmp_path}/kc.db"})
        cuts, kept_from, read = 0, 1, prompt_tokens_read(llama.url)
        for number in range(1, 31):
            prompt = f"Tell me part {number} of the story of the two rivers, and who lived there."
            task = send(
                producer, session, prompt, temperature=0, system="You tell tales.", options={"stream": True}
            )
            result = task.get(timeout=WAIT_S)
            assert result["turn"] == number
            pieces = reader.xrange(f"kc:stream:{task.id}")
            assert len(pieces) > 2, "it streams: several pieces and an end"
            assert "".join(one[1][b"text"].decode() for one in pieces[:-1]) == result["text"]
            usage, before = result["meta"]["usage"], read
            read = prompt_tokens_read(llama.url)
            fresh = usage["prompt_tokens"] - usage["cached_tokens"]
            assert read - before == fresh, "the server's counter says the same as its answer"
            assert usage["prompt_tokens"] + usage["completion_tokens"] <= 1024
            with Database(f"sqlite:///{tmp_path}/kc.db") as database:
                story = database.read(lambda connection: find(connection, Key("", session)))
            assert story
            if story.kept_from == kept_from and number > 1:
                # The new prompt (19 tokens), what the template puts around it, and the end of the last answer.
                assert fresh <= 19 + 12, f"turn {number} read {fresh} of {usage['prompt_tokens']} tokens anew"
            cuts += story.kept_from != kept_from
            kept_from = story.kept_from
        assert 1 <= cuts <= 5


def test_a_base_model_goes_on_with_the_text_and_its_server_with_what_it_has_read(
    worker: WorkerFactory, producer: Celery, session: str, tmp_path: Path
) -> None:
    model = tmp_path / "base.gguf"
    model.write_bytes(
        bundled_model().read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.chat_templat_")
    )
    with LocalLlama(model=model, slots=1, context=512, embeddings=False) as llama:
        llama.wait_ready()
        worker(llm_url=llama.url, env={"DATABASE_URL": f"sqlite:///{tmp_path}/kc.db"})
        first = send(producer, session, "Once upon a time there was", temperature=0).get(timeout=WAIT_S)
        second = send(producer, session, "One day", temperature=0).get(timeout=WAIT_S)
    assert first["meta"]["usage"]["prompt_tokens"] < 10, "no template around it"
    assert second["meta"]["usage"]["cached_tokens"] >= 32
    with Database(f"sqlite:///{tmp_path}/kc.db") as database:
        story = database.read(lambda connection: find(connection, Key("", session)))
    assert story
    assert story.layout == "plain"


def test_a_worker_killed_in_the_middle_leaves_a_whole_story_and_the_turn_is_taken_once(
    worker: WorkerFactory, producer: Celery, server: Any, database_url: str, session: str
) -> None:
    llm = server(latency_s=2.0)
    settings = {"DATABASE_URL": database_url, "WORKER_LEASE_S": "1"}
    victim = worker(llm_url=llm.url, env=settings)
    assert send(producer, session, "first").get(timeout=WAIT_S)["turn"] == 1
    calls = len(chats(llm))
    second = send(producer, session, "second")
    until(lambda: len(chats(llm)) > calls)
    third = send(producer, session, "third")
    with Database(database_url) as database:
        until(lambda: standing(database) == 2)
    os.kill(victim.pid, signal.SIGKILL)
    assert [one.content for one in said(database_url, session)] == ["first", "first"]
    worker(llm_url=llm.url, env=settings)
    assert [task.get(timeout=WAIT_S)["turn"] for task in (second, third)] == [2, 3]
    whole = said(database_url, session)
    assert [(one.turn, one.role) for one in whole] == [
        (n, role) for n in (1, 2, 3) for role in ("user", "assistant")
    ]
    assert sorted(one.content for one in whole if one.role == "user") == ["first", "second", "third"]
    with Database(database_url) as database:
        until(lambda: standing(database) == 0)


def chats(llm: LocalScripted) -> list[dict[str, Any]]:
    return [one for one in llm.seen()["requests"] if one["path"] == "/v1/chat/completions"]


def test_two_writers_on_two_workers_are_ordered(
    worker: WorkerFactory, producer: Celery, server: Any, database_url: str, session: str
) -> None:
    llm = server(latency_s=0.05)
    for _ in range(2):
        worker(llm_url=llm.url, env={"DATABASE_URL": database_url})
    tasks = [send(producer, session, f"prompt {number}") for number in range(24)]
    results = [task.get(timeout=WAIT_S) for task in tasks]
    assert sorted(result["turn"] for result in results) == list(range(1, 25))
    calls = chats(llm)
    assert len(calls) == 24
    for one, following in pairwise(calls):
        assert one["ended_s"] <= following["started_s"], "one turn at a time"
        shown = following["body"]["messages"]
        assert shown[-3:-1] == [
            one["body"]["messages"][-1],
            {"role": "assistant", "content": shown[-3]["content"]},
        ]
    whole = said(database_url, session)
    assert [(one.turn, one.role) for one in whole] == [
        (n, role) for n in range(1, 25) for role in ("user", "assistant")
    ]


def test_a_cancelled_turn_stops_the_server_and_leaves_nothing(
    worker: WorkerFactory, producer: Celery, redis_url: str, server: Any, database_url: str, session: str
) -> None:
    llm = server(latency_s=30.0)
    worker(llm_url=llm.url, env={"DATABASE_URL": database_url})
    task = send(producer, session, "never answered and long enough to be streamed", options={"stream": True})
    until(lambda: chats(llm))
    with Producer(RedisAddress(redis_url)) as ours:
        assert ours.cancel(task.id) == "running"
    until(lambda: chats(llm)[0]["outcome"] == "disconnected")
    until(lambda: task.state == "REVOKED")
    assert said(database_url, session) == []
    with Database(database_url) as database:
        until(lambda: standing(database) == 0)


def test_many_sessions_of_many_turns_stay_flat(
    worker: WorkerFactory, producer: Celery, server: Any, database_url: str
) -> None:
    """1,000 sessions of 200 turns in the long form: the worker's memory, and what a turn reads, do not grow."""
    sessions, turns = scaled(20, 1000), scaled(30, 200)
    llm = server(context=512, keep=200)
    running = worker(llm_url=llm.url, env={"DATABASE_URL": database_url})
    process = psutil.Process(running.pid)
    after: dict[int, int] = {}
    words = "word " * 12
    for number in range(turns):
        waiting = [send(producer, f"session {one}", f"{words}{number}") for one in range(sessions)]
        assert {task.get(timeout=WAIT_S * 10)["turn"] for task in waiting} == {number + 1}
        after[number] = process.memory_info().rss
    begun = after[turns // 3]
    assert after[turns - 1] - begun < 32 * 1024 * 1024
    shown = [len(one["body"]["messages"]) for one in chats(llm)]
    assert max(shown) < 30
    with Database(database_url) as database:
        count = sa.select(sa.func.count()).select_from(MESSAGE)
        assert database.read(lambda one: one.execute(count).scalar()) == 2 * sessions * turns
        assert database.read(plans) == []


def plans(connection: sa.Connection) -> list[str]:
    """Queries of a turn that would look at a whole table."""
    if connection.dialect.name != "sqlite":
        return []
    key = "owner = '' AND session = 'x'"
    queries = [
        f"SELECT * FROM {STORY.name} WHERE {key}",
        f"SELECT * FROM {TURN.name} WHERE {key} AND task = 'x'",
        f"SELECT * FROM {MESSAGE.name} WHERE {key} AND turn >= 7 ORDER BY turn, position",
        f"SELECT * FROM {WAITING.name} WHERE {key} ORDER BY place",
        f"DELETE FROM {TURN.name} WHERE {key}",
    ]
    found = [row for query in queries for row in connection.execute(sa.text(f"EXPLAIN QUERY PLAN {query}"))]
    return [
        row[3]
        for row in found
        if row[3].startswith("SCAN") or ("TEMP B-TREE" in row[3] and MESSAGE.name in row[3])
    ]
