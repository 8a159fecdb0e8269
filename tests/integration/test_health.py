"""A worker says whether it lives, whether it can work, and what it did."""

import json
import os
import signal
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.conftest import WorkerFactory, connected_producer
from worker.local.celery_worker import LocalWorker
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted
from worker.producer import Producer
from worker.redis_client import RedisAddress

WAIT_S = 40


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=15) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def ready(worker: LocalWorker) -> tuple[int, list[str]]:
    status, body = get(f"{worker.health_url}/health/ready")
    return status, json.loads(body).get("reasons", [])


def until(worker: LocalWorker, status: int) -> list[str]:
    deadline = time.monotonic() + WAIT_S
    while (found := ready(worker))[0] != status:
        assert time.monotonic() < deadline, f"still {found}\n{worker.log()[-2000:]}"
        time.sleep(0.1)
    return found[1]


def test_ready_follows_the_model_server_and_live_does_not(
    worker: WorkerFactory, fresh_redis: LocalRedis
) -> None:
    with LocalScripted() as server:
        server.wait_ready()
        process = worker(redis_url=fresh_redis.url, llm_url=server.url)
        assert until(process, 200) == []
        server.process.send_signal(signal.SIGSTOP)
        assert server.url in until(process, 503)[0]
        server.process.send_signal(signal.SIGCONT)
        assert until(process, 200) == []
    reasons = until(process, 503)
    assert server.url in reasons[0]
    assert get(f"{process.health_url}/health/live")[0] == 200


def test_ready_follows_redis_and_the_worker_comes_back_by_itself(worker: WorkerFactory) -> None:
    with LocalScripted() as server:
        server.wait_ready()
        with LocalRedis() as first:
            first.wait_ready()
            process = worker(redis_url=first.url, llm_url=server.url)
            assert until(process, 200) == []
            port = first.port
        assert any("Redis" in reason for reason in until(process, 503))
        assert get(f"{process.health_url}/health/live")[0] == 200
        assert "kc_reserved NaN" in get(f"{process.health_url}/metrics")[1]
        with LocalRedis(port=port) as second:
            second.wait_ready()
            assert until(process, 200) == []
            with connected_producer(second.url) as producer:
                messages = [{"role": "user", "content": "back again"}]
                answer = producer.send_task("llm.chat", kwargs={"messages": messages}).get(timeout=WAIT_S)
                assert answer["choices"][0]["message"]["content"] == "back again"


def test_metrics_count_what_was_done(worker: WorkerFactory, fresh_redis: LocalRedis) -> None:
    with LocalScripted() as server:
        server.wait_ready()
        process = worker(redis_url=fresh_redis.url, llm_url=server.url)
        with connected_producer(fresh_redis.url) as producer:
            messages = [{"role": "user", "content": "one two three"}]
            producer.send_task("llm.chat", kwargs={"messages": messages}).get(timeout=WAIT_S)
            producer.send_task("llm.chat", kwargs={}).get(timeout=WAIT_S, propagate=False)
    page = get(f"{process.health_url}/metrics")[1]
    assert 'kc_tasks_started_total{task="llm.chat"} 2.0' in page
    assert 'kc_tasks_ended_total{outcome="success",task="llm.chat"} 1.0' in page
    assert 'kc_tasks_ended_total{outcome="InvalidTask",task="llm.chat"} 1.0' in page
    assert "kc_tasks_in_flight 0.0" in page
    assert 'kc_tokens_total{kind="completion",task="llm.chat"}' in page


def test_a_taken_health_port_is_said_and_does_not_stop_the_worker(
    worker: WorkerFactory, fresh_redis: LocalRedis
) -> None:
    with LocalScripted() as server:
        server.wait_ready()
        first = worker(redis_url=fresh_redis.url, llm_url=server.url)
        env = {"WORKER_HEALTH_PORT": str(first.health_port)}
        second = worker(redis_url=fresh_redis.url, llm_url=server.url, env=env)
        assert f"WORKER_HEALTH_PORT {first.health_port}" in second.log()
        assert second.alive


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"LLM_BACKEND": "ollama"}, "kc-worker: LLM_BACKEND: Input should be 'llamacpp' or 'vllm'"),
        ({"LLM_BACKED": "vllm"}, "kc-worker: LLM_BACKED is not a setting; did you mean LLM_BACKEND?"),
        ({"REDIS_URL": "redis://h?cluster=true"}, "kc-worker: REDIS_URL: Redis Cluster is not supported"),
    ],
)
def test_a_wrong_setting_stops_the_worker_with_one_line(
    worker: WorkerFactory, fresh_redis: LocalRedis, env: dict[str, str], says: str
) -> None:
    url = "http://127.0.0.1:1"
    process = worker(redis_url=fresh_redis.url, llm_url=url, env=env, ready=False)
    assert process.process.wait(WAIT_S) == 1
    assert process.log().startswith(says)
    assert len(process.log().splitlines()) == 1


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_the_catalogue_runs_on_celerys_own_pools(
    worker: WorkerFactory, fresh_redis: LocalRedis, pool: str
) -> None:
    with LocalScripted() as server:
        server.wait_ready()
        args = ["-P", pool, *(["-c", "2"] if pool == "threads" else [])]
        process = worker(*args, redis_url=fresh_redis.url, llm_url=server.url)
        messages = [{"role": "user", "content": "hello"}]
        with connected_producer(fresh_redis.url) as producer:
            sent = [producer.send_task("llm.chat", kwargs={"messages": messages}) for _ in range(6)]
            contents = [one.get(timeout=WAIT_S)["choices"][0]["message"]["content"] for one in sent]
            assert contents == ["hello"] * 6
            refused = producer.send_task("llm.chat", kwargs={}).get(timeout=WAIT_S, propagate=False)
            assert type(refused).__name__ == "InvalidTask"
            server.script({"fault": "hang", "times": 1})
            late = producer.send_task("llm.chat", kwargs={"messages": messages}, time_limit=2)
            assert type(late.get(timeout=WAIT_S, propagate=False)).__name__ == "TimeLimitExceeded"
            server.script({"fault": "hang", "times": 1})
            cancelled = producer.send_task("llm.chat", kwargs={"messages": messages})
            while server.seen()["requests"][-1]["outcome"] != "running":
                time.sleep(0.05)
            with Producer(RedisAddress(fresh_redis.url)) as canceller:
                canceller.cancel(cancelled.id)
            while server.seen()["requests"][-1]["outcome"] == "running":
                time.sleep(0.05)
            assert cancelled.state == "REVOKED"
    if pool == "prefork":
        assert f"concurrency: {os.cpu_count()} (prefork)" in process.log()
