"""What an operator types while a worker works: cancel, dlq, status; and what a worker's metrics say."""

import json
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from tests.acceptance.conftest import KcWorker, Result
from tests.conftest import WorkerFactory, connected_producer
from worker.local.celery_worker import LocalWorker
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted

WAIT_S = 60
SLOTS = 2


@dataclass
class Stage:
    store: LocalRedis
    server: LocalScripted
    worker: LocalWorker
    producer: Celery
    kc_worker: KcWorker

    def chat(self, content: str, **where: Any) -> Any:
        messages = [{"role": "user", "content": content}]
        return self.producer.send_task("llm.chat", kwargs={"messages": messages}, **where)

    def seen(self, *ids: str) -> list[str]:
        """How the chat requests of these tasks ended, as the server saw it."""
        return [
            seen["outcome"]
            for seen in self.server.seen()["requests"]
            if seen["body"] and any(seen["request_id"].startswith(task_id) for task_id in ids)
        ]

    def type(self, *arguments: str) -> Result:
        return self.kc_worker(
            *arguments, REDIS_URL=self.store.url, LLM_SERVER_URL=self.server.url, LLM_BACKEND="vllm"
        )

    def json(self, *arguments: str) -> Any:
        return json.loads(self.type(*arguments, "--json").stdout)

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"{self.worker.health_url}/metrics", timeout=15) as answer:
            lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#"]
        return {name: float(value) for name, value in lines}


@pytest.fixture(scope="module")
def process(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[LocalRedis, LocalScripted, LocalWorker]]:
    with LocalRedis() as store, LocalScripted("vllm") as server:
        store.wait_ready()
        server.wait_ready()
        env = {"TASK_MAX_RETRIES": "1", "LLM_MAX_CONCURRENCY": str(SLOTS), "WORKER_LEASE_S": "2"}
        folder = tmp_path_factory.mktemp("operated")
        with LocalWorker(store.url, server.url, backend="vllm", env=env, directory=folder) as worker:
            worker.wait_ready()
            yield store, server, worker


@pytest.fixture
def stage(process: tuple[LocalRedis, LocalScripted, LocalWorker], kc_worker: KcWorker) -> Iterator[Stage]:
    store, server, worker = process
    with connected_producer(store.url) as producer:
        yield Stage(store, server, worker, producer, kc_worker)
    server.clear()


def until(condition: Callable[[], Any], what: str) -> None:
    give_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up, f"not within {WAIT_S} s: {what}"
        time.sleep(0.02)


def dead(stage: Stage) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stage.json("dlq", "list")
    return found


def test_a_task_cancelled_while_no_worker_lives_is_never_run(
    fresh_redis: LocalRedis, worker: WorkerFactory, kc_worker: KcWorker
) -> None:
    with LocalScripted("vllm") as server, connected_producer(fresh_redis.url) as producer:
        server.wait_ready()
        messages = [{"role": "user", "content": "hello"}]
        first, last = (producer.send_task("llm.chat", kwargs={"messages": messages}) for _ in range(2))
        answer = kc_worker("cancel", first.id, REDIS_URL=fresh_redis.url)
        assert (answer.returncode, answer.stdout.split()[:3]) == (0, [first.id, "was", "waiting,"])
        worker(redis_url=fresh_redis.url, llm_url=server.url, backend="vllm")
        last.get(timeout=WAIT_S)
        assert first.state == "REVOKED"
        asked = [seen["request_id"] for seen in server.seen()["requests"] if seen["body"]]
        assert not [request_id for request_id in asked if request_id.startswith(first.id)]


def test_cancelling_a_running_task_closes_its_request(stage: Stage) -> None:
    stage.server.script({"fault": "hang"})
    sent = stage.chat("hangs")
    until(lambda: stage.seen(sent.id) == ["running"], "it runs")
    answer = stage.type("cancel", sent.id)
    assert (answer.returncode, answer.stdout) == (0, f"{sent.id} was running; it is told to stop.\n")
    until(lambda: stage.seen(sent.id) == ["disconnected"], "the server sees the disconnect")
    assert sent.state == "REVOKED"
    assert stage.json("cancel", sent.id) == {sent.id: "REVOKED"}


def test_a_delayed_task_is_cancelled_and_nothing_of_it_is_left(stage: Stage) -> None:
    sent = stage.chat("later", countdown=3600)
    until(lambda: stage.json("status")["redis"]["delivery"]["delayed"] == 1, "it is delayed")
    assert stage.json("cancel", sent.id) == {sent.id: "waiting"}
    assert sent.state == "REVOKED"
    with redis.Redis.from_url(stage.store.url) as client:
        until(lambda: not client.exists("kc:delayed", "kc:delayed:messages"), "it is gone")
    assert stage.seen(sent.id) == []


def test_cancelling_what_has_ended_says_so_and_is_status_1(stage: Stage) -> None:
    sent = stage.chat("done")
    sent.get(timeout=WAIT_S)
    answer = stage.type("cancel", sent.id)
    assert (answer.returncode, answer.stdout) == (1, f"{sent.id} has already ended in SUCCESS.\n")
    assert sent.state == "SUCCESS"


def test_what_is_no_message_is_kept_as_a_dead_letter_and_can_be_purged(stage: Stage) -> None:
    with redis.Redis.from_url(stage.store.url) as client:
        client.lpush("default", "nonsense")
    until(lambda: dead(stage), "it is dead")
    (one,) = dead(stage)
    assert (one["task"], one["queue"], one["reason"]) == ("", "default", "It is not a Celery message.")
    assert one["id"] in stage.type("dlq", "list").stdout
    assert "nonsense" in stage.type("dlq", "show", one["id"]).stdout
    kept = stage.type("dlq", "purge", "--all", "--older-than", "1h")
    assert (kept.returncode, kept.stdout) == (0, "There are no dead letters to be purged.\n")
    assert stage.json("dlq", "purge", one["id"]) == {"purged": [one["id"]], "unknown": []}
    again = stage.type("dlq", "purge", one["id"])
    assert again.returncode == 1
    assert f"{one['id']} is no dead letter" in again.stderr
    assert dead(stage) == []


def test_a_task_out_of_retries_is_shown_with_its_history_and_replayed_once(stage: Stage) -> None:
    task_id = str(uuid.uuid4())
    stage.server.script({"fault": "status", "status": 500, "times": -1, "request_id": task_id})
    sent = stage.chat("never", task_id=task_id)
    # Others are answered meanwhile: it is the task, not the server.
    until(lambda: stage.chat("fine").get(timeout=WAIT_S) and sent.state == "FAILURE", "it is given up")
    (one,) = dead(stage)
    assert (one["id"], one["task"], one["tries"]) == (sent.id, "llm.chat", 1)
    assert "Tried 2 times" in one["reason"]
    shown = stage.type("dlq", "show", sent.id).stdout
    assert "put off" in shown
    assert '{"messages": [{"role": "user", "content": "never"}]}' in shown
    (event,) = stage.json("dlq", "show", sent.id)["history"]
    assert event["event"] == "put off"
    assert "answered 500" in event["error"]
    assert stage.metrics()["kc_dead"] == 1
    stage.server.clear()
    calls = len(stage.seen(sent.id))
    assert stage.json("dlq", "replay", "--all") == {"replayed": [sent.id], "unknown": []}
    again = stage.type("dlq", "replay", sent.id)
    assert (again.returncode, again.stdout) == (1, "")
    assert f"{sent.id} is no dead letter" in again.stderr
    with connected_producer(stage.store.url) as another:  # the first one remembers the failure
        answer = another.AsyncResult(sent.id).get(timeout=WAIT_S)
    assert answer["choices"][0]["message"]["content"] == "never"
    assert stage.seen(sent.id)[calls:] == ["answered"]


def test_status_and_metrics_know_every_task_that_waits_runs_or_is_delayed(stage: Stage) -> None:
    stage.server.script({"fault": "hang", "times": -1})
    sent = [stage.chat("hangs", queue="batch") for _ in range(30)]
    later = stage.chat("later", countdown=3600)

    def settled() -> bool:
        found = stage.json("status")["redis"]["delivery"]
        return bool(
            found["running"] == SLOTS
            and found["reserved"] == found["running"] + found["parked"]
            and found["delayed"]
        )

    until(settled, "two run, others wait for them")
    delivery = stage.json("status")["redis"]["delivery"]
    (batch,) = [queue for queue in delivery["queues"] if queue["name"] == "batch"]
    assert batch["waiting"] + delivery["reserved"] == 30
    assert batch["waiting"] > 0
    assert delivery["parked"] > 0
    assert batch["oldest_s"] is not None
    (worker,) = delivery["workers"]
    assert worker["pid"] == stage.worker.pid
    assert worker["held"] == delivery["reserved"]
    page = stage.metrics()
    assert page['kc_queue_waiting{queue="batch"}'] == batch["waiting"]
    assert page['kc_queue_oldest_seconds{queue="batch"}'] >= batch["oldest_s"]
    assert page["kc_reserved"] == delivery["reserved"]
    assert (page["kc_running"], page["kc_parked"]) == (SLOTS, delivery["parked"])
    assert (page["kc_delayed"], page["kc_suspects"], page["kc_dead"]) == (1, 0, 0)
    server = f'{{server="{stage.server.url}"}}'
    assert (page["kc_server_ready" + server], page["kc_server_limit" + server]) == (1, SLOTS)
    assert page["kc_server_in_flight" + server] == SLOTS
    assert page["kc_gate_waiting"] == delivery["parked"]
    words = stage.type("status").stdout
    assert f"batch        {batch['waiting']}" in words
    ids = [one.id for one in [*sent, later]]
    assert stage.type("cancel", *ids).returncode == 0
    until(lambda: set(stage.seen(*ids)) == {"disconnected"}, "the server sees the disconnects")
    until(lambda: stage.metrics()["kc_reserved"] == 0, "nothing is held")
    assert {one.state for one in sent} == {"REVOKED"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dlq", "replay"], "Name dead letters by their IDs, or say --all."),
        (["dlq", "purge", "x", "--all"], "Name dead letters by their IDs, or say --all."),
        (["dlq", "purge", "x", "--older-than", "1h"], "--older-than goes with --all."),
        (["dlq", "purge", "--all", "--older-than", "soon"], "'soon' is no age"),
        (["cancel"], "Missing argument"),
    ],
)
def test_what_is_unclear_is_status_2(kc_worker: KcWorker, arguments: list[str], says: str) -> None:
    answer = kc_worker(*arguments)
    assert answer.returncode == 2
    assert says in answer.stderr


@pytest.mark.parametrize("arguments", [["dlq", "list"], ["dlq", "show", "x"], ["cancel", "x"]])
def test_without_redis_each_says_so_and_how_to_start_one(kc_worker: KcWorker, arguments: list[str]) -> None:
    answer = kc_worker(*arguments, REDIS_URL="redis://127.0.0.1:1")
    assert answer.returncode == 1
    assert "kc-worker up" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_unknown_id_is_status_1_and_one_sentence(
    kc_worker: KcWorker, redis_url: str, tmp_path: Path
) -> None:
    answer = kc_worker("dlq", "show", "nobody", REDIS_URL=redis_url)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "nobody is no dead letter (any more); `kc-worker dlq list` names them all.\n"
