"""OpenAI's Batch API by the official client: create, poll, download, cancel, expire."""

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai.types import Batch

from tests.integration.gateway.conftest import Call, GatewayFactory
from worker.delivery.sending import Limits
from worker.gateway.keys import new_key
from worker.local.celery_worker import LocalWorker
from worker.local.gateway import LocalGateway
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted

ENDED = {"completed", "failed", "cancelled", "expired"}


@pytest.fixture(scope="module")
def scripted() -> Iterator[LocalScripted]:
    with LocalScripted("vllm", latency_s=0.3) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def client(gateway: LocalGateway, at_work: LocalWorker) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(number: int, words: str = "") -> dict[str, Any]:
    asked = words or f"one two {number}"
    return {
        "custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "scripted", "messages": [{"role": "user", "content": asked}], "max_tokens": 20},
    }  # fmt: skip


def start(
    client: openai.OpenAI, lines: list[Any], endpoint: str = "/v1/chat/completions", **more: Any
) -> Batch:
    content = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    file = client.files.create(file=("in.jsonl", content.encode()), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,
        completion_window=more.pop("completion_window", "24h"),
        **more,
    )  # type: ignore[call-overload]


def until(
    client: openai.OpenAI, batch: Batch, ready: Callable[[Batch], bool], timeout_s: float = 60
) -> Batch:
    give_up = time.monotonic() + timeout_s
    while not ready(batch := client.batches.retrieve(batch.id)):
        assert time.monotonic() < give_up, batch
        time.sleep(0.05)
    return batch


def ended(client: openai.OpenAI, batch: Batch, timeout_s: float = 60) -> Batch:
    return until(client, batch, lambda one: one.status in ENDED, timeout_s)


def lines_of(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(one) for one in client.files.content(file_id).text.splitlines()] if file_id else []


def chats(scripted: LocalScripted) -> int:
    return sum(one["path"] == "/v1/chat/completions" for one in scripted.seen()["requests"])


def test_every_line_is_answered_under_its_custom_id(client: openai.OpenAI) -> None:
    batch = start(client, [chat(number) for number in range(200)], metadata={"night": "one"})
    assert batch.status == "validating"
    batch = ended(client, batch)
    assert (batch.status, batch.errors, batch.error_file_id) == ("completed", None, None)
    assert (batch.request_counts.total, batch.request_counts.completed) == (200, 200)
    assert batch.metadata == {"night": "one"}
    assert batch.model == "scripted"
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert batch.expires_at == batch.created_at + 86400
    answers = {one["custom_id"]: one for one in lines_of(client, batch.output_file_id)}
    assert len(answers) == 200
    for number in range(200):
        response = answers[f"row-{number}"]["response"]
        assert response["status_code"] == 200
        assert response["body"]["choices"][0]["message"]["content"] == f"one two {number}"
    assert batch.usage.output_tokens == sum(
        one["response"]["body"]["usage"]["completion_tokens"] for one in answers.values()
    )
    file = client.files.retrieve(batch.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert batch.id in {one.id for one in client.batches.list()}


def test_any_task_and_embeddings_may_be_lines(client: openai.OpenAI) -> None:
    extract = {
        "text": '{"a": 1}', "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    }  # fmt: skip
    rows = [{"custom_id": "x", "method": "POST", "url": "/v1/tasks/llm.extract", "body": extract}]
    batch = ended(client, start(client, rows, "/v1/tasks/llm.extract"))
    found = lines_of(client, batch.output_file_id) + lines_of(client, batch.error_file_id)
    assert [one["custom_id"] for one in found] == ["x"]
    rows = [
        {
            "custom_id": kind, "method": "POST", "url": "/v1/embeddings",
            "body": {"input": "a river", "encoding_format": kind},
        }
        for kind in ("float", "base64")
    ]  # fmt: skip
    batch = ended(client, start(client, rows, "/v1/embeddings"))
    vectors = {
        one["custom_id"]: one["response"]["body"]["data"][0]["embedding"]
        for one in lines_of(client, batch.output_file_id)
    }
    assert isinstance(vectors["float"], list)
    assert isinstance(vectors["base64"], str)


def test_wrong_lines_fail_the_batch_before_anything_is_sent(
    client: openai.OpenAI, scripted: LocalScripted
) -> None:
    before = chats(scripted)
    wrong = {**chat(3), "body": {"messages": "hello"}}
    batch = ended(client, start(client, [chat(1), "no json", wrong, chat(1)]))
    assert batch.status == "failed"
    assert batch.output_file_id is batch.error_file_id is None
    told = [(one.line, one.code, one.param) for one in batch.errors.data]
    assert told == [
        (2, "invalid_json_line", None),
        (3, "invalid_request", "body.messages"),
        (4, "duplicate_custom_id", "custom_id"),
    ]
    assert chats(scripted) == before


def test_lines_that_fail_are_in_the_error_file(client: openai.OpenAI, scripted: LocalScripted) -> None:
    scripted.script({"fault": "status", "status": 400, "body": {"error": {"message": "too hot"}}})
    batch = ended(client, start(client, [chat(number) for number in range(10)]))
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 9, 1)
    (failed,) = lines_of(client, batch.error_file_id)
    assert failed["response"]["status_code"] == 400
    assert failed["error"] is None
    assert len(lines_of(client, batch.output_file_id)) == 9


def test_a_cancelled_batch_keeps_what_is_done_and_names_what_is_not(client: openai.OpenAI) -> None:
    batch = start(client, [chat(number) for number in range(3000)])
    until(client, batch, lambda one: one.request_counts.completed > 100)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = ended(client, batch)
    assert batch.status == "cancelled"
    assert batch.cancelling_at <= batch.cancelled_at
    done, not_done = lines_of(client, batch.output_file_id), lines_of(client, batch.error_file_id)
    assert len(done) == batch.request_counts.completed >= 100
    assert len(not_done) == batch.request_counts.failed > 0
    assert {one["error"]["code"] for one in not_done} == {"batch_cancelled"}
    assert sorted(one["custom_id"] for one in done + not_done) == sorted(f"row-{n}" for n in range(3000))
    assert client.batches.cancel(batch.id).status == "cancelled", "cancelling again changes nothing"


def test_a_batch_whose_window_is_over_keeps_what_is_done_and_names_what_is_not(client: openai.OpenAI) -> None:
    batch = start(client, [chat(number) for number in range(5000)], completion_window="3s")
    batch = ended(client, batch)
    assert batch.status == "expired"
    assert batch.created_at + 3 == batch.expires_at <= batch.expired_at
    done, not_done = lines_of(client, batch.output_file_id), lines_of(client, batch.error_file_id)
    assert {one["error"]["code"] for one in not_done} == {"batch_expired"}
    assert (len(done), len(not_done)) == (batch.request_counts.completed, batch.request_counts.failed)
    assert sorted(one["custom_id"] for one in done + not_done) == sorted(f"row-{n}" for n in range(5000))


def test_a_lines_idempotency_key_is_its_owners_alone(
    open_gateway: GatewayFactory, at_work: LocalWorker, scripted: LocalScripted
) -> None:
    (anna, annas), (ben, bens) = (new_key(name, Limits()) for name in ("anna", "ben"))
    gateway = open_gateway(GATEWAY_API_KEYS=f"{annas},{bens}")
    before = chats(scripted)
    for key in (anna, anna, ben):
        with openai.OpenAI(base_url=gateway.url + "/v1", api_key=key, max_retries=0) as client:
            line = {
                "custom_id": "a", "method": "POST", "url": "/v1/tasks/llm.chat",
                "body": {
                    "messages": [{"role": "user", "content": "secret"}],
                    "options": {"idempotency_key": "same", "tenant": "anna"},
                },
            }  # fmt: skip
            batch = ended(client, start(client, [line], "/v1/tasks/llm.chat"))
            assert batch.request_counts.completed == 1
    assert chats(scripted) - before == 2, "Anna's second one has the first one's answer, Ben's has its own"


def test_a_batch_that_has_ended_cannot_be_cancelled(client: openai.OpenAI) -> None:
    batch = ended(client, start(client, [chat(1)]))
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_a_batch_goes_on_without_the_file_it_came_from(client: openai.OpenAI, call: Call) -> None:
    batch = start(client, [chat(number) for number in range(2000)])
    until(client, batch, lambda one: one.status == "in_progress")
    metrics = call("/metrics").content.decode()
    assert 'kc_batches{status="in_progress"} 1.0' in metrics
    assert re.search("^kc_batch_lines_left [1-9]", metrics, re.MULTILINE)
    assert client.files.delete(batch.input_file_id).deleted
    batch = ended(client, batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 2000)


@pytest.mark.parametrize(
    ("different", "param"),
    [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "99d"}, "completion_window"),
        ({"metadata": {"a": "x" * 600}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after.seconds"),
        ({"extra_body": {"endpont": "x"}}, "endpont"),
    ],
)
def test_what_is_wrong_with_a_batch_is_named(
    client: openai.OpenAI, different: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        start(client, [chat(1)], **different)
    assert refused.value.param == param


def test_an_input_that_is_not_there_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.batches.create(
            input_file_id="file-" + "0" * 32, endpoint="/v1/embeddings", completion_window="24h"
        )
    assert refused.value.param == "input_file_id"


def test_the_output_expires_when_it_was_said_to(client: openai.OpenAI) -> None:
    batch = start(client, [chat(1)], output_expires_after={"anchor": "created_at", "seconds": 7200})
    batch = ended(client, batch)
    file = client.files.retrieve(batch.output_file_id)
    assert file.expires_at == pytest.approx(file.created_at + 7200, abs=2)


def test_what_drives_batches_is_started_again_and_goes_on(
    open_gateway: GatewayFactory, at_work: LocalWorker, scripted: LocalScripted
) -> None:
    gateway = open_gateway()
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
        batch = start(client, [chat(number) for number in range(1500)])
        for threshold in (100, 500):
            until(client, batch, lambda one: one.request_counts.completed > threshold)  # noqa: B023
            feeder_of(gateway).kill()
        batch = ended(client, batch)
        assert (batch.status, batch.request_counts.completed) == ("completed", 1500)
        assert len(lines_of(client, batch.output_file_id)) == 1500


def test_what_drives_batches_goes_with_its_gateway(open_gateway: GatewayFactory) -> None:
    gateway = open_gateway()
    feeder = feeder_of(gateway)
    gateway.process.kill()
    feeder.wait(10)


def test_no_worker_no_harm(open_gateway: GatewayFactory, fresh_redis: LocalRedis, tmp_path: Path) -> None:
    """A batch waits for a worker, can be cancelled meanwhile, and leaves nothing in the queue that is done later."""
    gateway = open_gateway(fresh_redis.url)
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
        batch = start(client, [chat(number) for number in range(500)])
        batch = until(client, batch, lambda one: one.status == "in_progress")
        client.batches.cancel(batch.id)
        batch = ended(client, batch)
        assert (batch.status, batch.request_counts.failed) == ("cancelled", 500)


def feeder_of(gateway: LocalGateway) -> psutil.Process:
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        with contextlib.suppress(psutil.Error):  # one that was killed just now says nothing of itself
            for child in psutil.Process(gateway.pid).children(recursive=True):
                if "feed" in child.cmdline():
                    return child
        time.sleep(0.05)
    raise AssertionError("there is none")
