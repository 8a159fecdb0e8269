"""Who may call, how much, and what he may see."""

import subprocess
import sys
import time

import pytest

from tests.integration.gateway.conftest import GatewayFactory, caller_of
from tests.integration.gateway.test_tasks import CHAT, ended
from worker.delivery.sending import Limits
from worker.gateway.keys import KeyRing, new_key
from worker.local.celery_worker import LocalWorker
from worker.local.environment import environment_with


@pytest.fixture
def keys() -> dict[str, tuple[str, str]]:
    return {name: new_key(name, Limits()) for name in ("anna", "ben")}


def settings_of(*entries: str) -> str:
    return ",".join(entries)


def test_only_a_known_key_opens(at_work: LocalWorker, open_gateway: GatewayFactory) -> None:
    key, entry = new_key("anna", Limits())
    call = caller_of(open_gateway(GATEWAY_API_KEYS=entry).url)
    for headers in ({}, {"key": "wrong"}, {"key": key[:-1]}, {"authorization": f"Basic {key}"}, {"key": " "}):
        for path in ("/v1/tasks/llm.chat", "/v1/chat/completions", "/v1/embeddings"):
            answer = call(path, CHAT, **headers)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/models", "/v1/capacity", "/v1/tasks/none"):
            assert call(path, **headers).status == 401
    assert call("/v1/tasks/llm.chat", CHAT, key=key).status == 202
    assert call("/health/live").status == 200


def test_anothers_task_is_as_if_it_were_not_there(at_work: LocalWorker, open_gateway: GatewayFactory) -> None:
    (anna, annas), (ben, bens) = new_key("anna", Limits()), new_key("ben", Limits())
    call = caller_of(open_gateway(GATEWAY_API_KEYS=f"{annas},{bens}").url)
    task_id = call("/v1/tasks/llm.chat", CHAT, key=anna).json["id"]
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
        foreign = call(f"/v1/tasks/{task_id}{path}", method=method, key=ben)
        unknown = call(f"/v1/tasks/{task_id[::-1]}{path}", method=method, key=ben)
        assert foreign.status == unknown.status == 404
        assert foreign.error["message"].replace(task_id, task_id[::-1]) == unknown.error["message"]
    assert ended(call, task_id, anna)["state"] == "SUCCESS"


def test_an_idempotency_key_is_its_owners_alone(at_work: LocalWorker, open_gateway: GatewayFactory) -> None:
    (anna, annas), (ben, bens) = new_key("anna", Limits()), new_key("ben", Limits())
    call = caller_of(open_gateway(GATEWAY_API_KEYS=f"{annas},{bens}").url)
    request = {**CHAT, "options": {"idempotency_key": "same", "tenant": "anna"}}
    first = ended(call, call("/v1/tasks/llm.chat", request, key=anna).json["id"], anna)
    again = ended(call, call("/v1/tasks/llm.chat", request, key=anna).json["id"], anna)
    others = ended(call, call("/v1/tasks/llm.chat", request, key=ben).json["id"], ben)
    assert [found["result"]["meta"]["cached"] for found in (first, again, others)] == [False, True, False]


def test_too_many_requests_a_minute_are_put_off(open_gateway: GatewayFactory) -> None:
    key, entry = new_key("anna", Limits(requests_per_minute=3))
    call = caller_of(open_gateway(GATEWAY_API_KEYS=entry).url)
    statuses = [call("/v1/tasks/llm.chat", CHAT, key=key).status for _ in range(4)]
    assert statuses == [202, 202, 202, 429]
    refused = call("/v1/tasks/llm.chat", CHAT, key=key)
    assert (refused.error["code"], refused.error["type"]) == ("requests_limit", "rate_limit_error")
    assert 1 <= int(refused.headers["retry-after"]) <= 20


def test_too_many_tokens_a_minute_are_put_off(open_gateway: GatewayFactory) -> None:
    key, entry = new_key("anna", Limits(tokens_per_minute=1000))
    call = caller_of(open_gateway(GATEWAY_API_KEYS=entry).url)
    request = {**CHAT, "max_tokens": 450}
    answers = [call("/v1/tasks/llm.chat", request, key=key) for _ in range(3)]
    assert [answer.status for answer in answers] == [202, 202, 429]
    assert answers[-1].error["code"] == "tokens_limit"


def test_tasks_under_way_are_limited_until_they_end(
    at_work: LocalWorker, open_gateway: GatewayFactory
) -> None:
    key, entry = new_key("anna", Limits(in_flight=2))
    call = caller_of(open_gateway(GATEWAY_API_KEYS=entry).url)
    ids = [call("/v1/tasks/llm.chat", CHAT, key=key).json["id"] for _ in range(2)]
    refused = call("/v1/tasks/llm.chat", CHAT, key=key)
    assert (refused.status, refused.error["code"]) == (429, "in_flight_limit")
    for task_id in ids:
        ended(call, task_id, key)
    ids = [call("/v1/tasks/llm.chat", CHAT, key=key).json["id"] for _ in range(2)]
    call(f"/v1/tasks/{ids[0]}", method="DELETE", key=key)
    assert call("/v1/tasks/llm.chat", CHAT, key=key).status == 202


def test_a_full_queue_is_said_with_when_to_come_back(open_gateway: GatewayFactory, fresh_redis) -> None:
    call = caller_of(open_gateway(redis_url=fresh_redis.url, GATEWAY_MAX_WAITING="3").url)
    answers = [call("/v1/tasks/llm.chat", CHAT) for _ in range(4)]
    assert [answer.status for answer in answers] == [202, 202, 202, 429]
    assert answers[-1].error["code"] == "queue_full"
    assert int(answers[-1].headers["retry-after"]) >= 1
    room = call("/v1/capacity").json
    assert not room["accepting"]
    assert room["queues"]["default"] == {
        "waiting": 3, "limit": 3, "accepting": False, "oldest_s": room["queues"]["default"]["oldest_s"]
    }  # fmt: skip
    assert call("/v1/tasks/llm.chat?queue=batch", CHAT).status == 202


def test_without_redis_everything_says_so_and_comes_back(open_gateway: GatewayFactory, fresh_redis) -> None:
    call = caller_of(open_gateway(redis_url=fresh_redis.url).url)
    assert call("/v1/tasks/llm.chat", CHAT).status == 202
    fresh_redis.process.kill()
    fresh_redis.process.wait()
    answer = call("/v1/tasks/llm.chat", CHAT)
    assert (answer.status, answer.error["code"]) == (503, "redis_unavailable")
    assert answer.headers["retry-after"]
    health = call("/health")
    assert health.status == 503
    assert health.json["redis"]["status"] == "unavailable"
    assert call("/health/live").status == 200


@pytest.mark.parametrize(
    "entry",
    [
        "anna",
        "anna:sha256:abc",
        "anna:md5:" + "0" * 64,
        "an na:sha256:" + "0" * 64,
        "a:sha256:" + "0" * 64 + ":x=1",
    ],
)
def test_an_unreadable_key_stops_the_gateway_at_start(entry: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "worker", "gateway"],
        env=environment_with({"GATEWAY_API_KEYS": entry}), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "GATEWAY_API_KEYS" in ran.stderr


def test_it_does_not_let_everybody_in_by_accident() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "worker", "gateway", "--host", "0.0.0.0"],
        env=environment_with({}), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "kc-worker gateway key" in ran.stderr


def test_the_command_makes_a_key_that_opens() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "worker", "gateway", "key", "anna", "--requests", "60", "--in-flight", "4"],
        env=environment_with({}), capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    entry = ran.stderr.split("GATEWAY_API_KEYS=")[1].splitlines()[0]
    caller = KeyRing(entry).caller(ran.stdout.strip())
    assert caller is not None
    assert (caller.name, caller.limits) == ("anna", Limits(in_flight=4, requests_per_minute=60))
    assert ran.stdout.strip() not in ran.stderr


def test_time_gives_room_again(open_gateway: GatewayFactory) -> None:
    key, entry = new_key("anna", Limits(requests_per_minute=120))
    call = caller_of(open_gateway(GATEWAY_API_KEYS=entry).url)
    while (answer := call("/v1/tasks/llm.chat", CHAT, key=key)).status == 202:
        pass
    time.sleep(int(answer.headers["retry-after"]))
    assert call("/v1/tasks/llm.chat", CHAT, key=key).status == 202
