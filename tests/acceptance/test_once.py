"""Work asked for twice is done once; work that fails for a reason that may pass is tried again, later."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery

from tests.conftest import connected_producer
from worker.local.celery_worker import LocalWorker
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted

WAIT_S = 40
HELLO = [{"role": "user", "content": "hello"}]


@dataclass
class Stage:
    store: LocalRedis
    server: LocalScripted
    producer: Celery

    def chat(self, content: str = "hello", **options: Any) -> Any:
        messages = [{"role": "user", "content": content}]
        return self.producer.send_task("llm.chat", kwargs={"messages": messages, "options": options})

    def calls(self, content: str) -> int:
        wanted = [{"role": "user", "content": content}]
        return sum((seen["body"] or {}).get("messages") == wanted for seen in self.server.seen()["requests"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with LocalRedis() as store, LocalScripted("vllm", latency_s=0.5) as server:
        store.wait_ready()
        server.wait_ready()
        env = {"TASK_MAX_RETRIES": "1"}
        folder = tmp_path_factory.mktemp("stage")
        with (
            LocalWorker(store.url, server.url, backend="vllm", env=env, directory=folder) as worker,
            connected_producer(store.url) as producer,
        ):
            worker.wait_ready()
            yield Stage(store, server, producer)


def test_tasks_of_one_key_share_the_first_ones_run_and_result(stage: Stage) -> None:
    sent = [stage.chat("of one key", idempotency_key="k1") for _ in range(5)]
    results = [one.get(timeout=WAIT_S) for one in sent]
    later = stage.chat("of one key", idempotency_key="k1").get(timeout=WAIT_S)
    assert stage.calls("of one key") == 1
    assert {result["id"] for result in [*results, later]} == {later["id"]}
    assert sorted(result["meta"]["cached"] for result in results) == [False, True, True, True, True]


def test_a_key_used_for_something_else_is_refused(stage: Stage) -> None:
    stage.chat("the first use", idempotency_key="k2").get(timeout=WAIT_S)
    with pytest.raises(Exception, match="idempotency_key` was used for a different task") as caught:
        stage.chat("another use", idempotency_key="k2").get(timeout=WAIT_S)
    assert type(caught.value).__name__ == "InvalidTask"


def test_keys_of_different_tenants_are_different_keys(stage: Stage) -> None:
    for tenant in ("a", "b"):
        answer = stage.chat(f"for {tenant}", idempotency_key="k3", tenant=tenant).get(timeout=WAIT_S)
        assert answer["choices"][0]["message"]["content"] == f"for {tenant}"


def test_who_joined_a_cancelled_task_does_the_work_instead(stage: Stage) -> None:
    stage.server.script({"fault": "hang", "times": 1})
    first = stage.chat("cancelled first", idempotency_key="k4")
    while not stage.calls("cancelled first"):
        pass
    second = stage.chat("cancelled first", idempotency_key="k4")
    first.revoke()
    assert second.get(timeout=WAIT_S)["meta"]["cached"] is False


def test_equal_requests_share_one_call_where_that_is_allowed(stage: Stage) -> None:
    sent = [stage.chat("shared", cache=True) for _ in range(4)]
    for one in sent:
        one.get(timeout=WAIT_S)
    assert stage.calls("shared") == 1
    assert stage.chat("shared", cache=True).get(timeout=WAIT_S)["meta"]["cached"] is True
    assert stage.chat("shared").get(timeout=WAIT_S)["meta"]["cached"] is False


def test_a_task_that_fails_for_a_while_is_put_off_and_succeeds(stage: Stage) -> None:
    stage.server.script({"fault": "status", "status": 500, "times": 5})
    sent = stage.chat("put off")
    assert sent.get(timeout=WAIT_S)["choices"][0]["message"]["content"] == "put off"
    assert stage.calls("put off") == 6
