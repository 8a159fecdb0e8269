"""Bad input of every kind ends in its own clear error, and the worker goes on serving."""

import base64
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from tests.conftest import connected_producer
from worker.local.celery_worker import LocalWorker
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted

WAIT_S = 60
HELLO = [{"role": "user", "content": "hello"}]
OBJECT = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


class Stage:
    """One worker in front of one scripted server, for all tests of this file."""

    def __init__(
        self, store: LocalRedis, server: LocalScripted, worker: LocalWorker, producer: Celery
    ) -> None:
        self.store, self.server, self.worker, self.producer = store, server, worker, producer

    def error(self, task: str, arguments: dict[str, Any], **options: Any) -> tuple[str, str]:
        """Type and message of the failure."""
        result = self.producer.send_task(task, kwargs=arguments, **options)
        error = result.get(timeout=WAIT_S, propagate=False)
        assert result.state == "FAILURE", (result.state, error)
        return type(error).__name__, str(error)

    def serves(self) -> bool:
        self.server.clear()
        answer = self.producer.send_task("llm.chat", kwargs={"messages": HELLO}).get(timeout=WAIT_S)
        return bool(answer["choices"][0]["message"]["content"] == "hello")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    (folder / "latin1.txt").write_bytes("żółw".encode("utf-16"))
    (folder / "big.txt").write_text("word " * 2_000_000)
    env = {"LLM_TIMEOUT": "3", "INPUT_DIRS": str(folder), "TASK_MAX_RETRIES": "0"}
    with LocalRedis() as store, LocalScripted("llamacpp", context=2048) as server:
        store.wait_ready()
        server.wait_ready()
        with (
            LocalWorker(store.url, server.url, env=env, directory=folder) as worker,
            connected_producer(store.url) as producer,
        ):
            worker.wait_ready()
            yield Stage(store, server, worker, producer)


@pytest.fixture(autouse=True)
def _still_serving(stage: Stage) -> Iterator[None]:
    yield
    assert stage.serves()


@pytest.mark.parametrize(
    ("task", "arguments", "kind", "says"),
    [
        ("llm.chatt", {}, "InvalidTask", "Did you mean 'llm.chat'?"),
        ("llm.chat", {}, "InvalidTask", "`messages` is missing"),
        ("llm.chat", {"messages": []}, "InvalidTask", "`messages`: list should have at least 1 item"),
        ("llm.chat", {"messages": "hello"}, "InvalidTask", "`messages`: input should be a valid list"),
        ("llm.chat", {"messages": HELLO, "max_tokns": 3}, "InvalidTask", "did you mean `max_tokens`?"),
        ("llm.chat", {"messages": HELLO, "max_tokens": -1}, "InvalidTask", "`max_tokens`: input should be greater"),
        ("llm.chat", {"messages": HELLO, "max_tokens": "9"}, "InvalidTask", "`max_tokens`: input should be a valid int"),
        ("llm.chat", {"messages": [{"role": "user"}]}, "InvalidTask", "`messages.0`: a message needs `content`"),
        ("llm.chat", {"messages": HELLO, "options": {"deadline": 3}}, "InvalidTask", "did you mean `deadline_s`?"),
        ("llm.chat", {"messages": HELLO, "options": {"deadline_s": -3}}, "InvalidTask", "`options.deadline_s`"),
        ("llm.chat", {"messages": HELLO, "options": 3}, "InvalidTask", "`options`"),
        ("llm.chat", {"messages": [{"role": "user", "content": "a\0b"}]}, "InvalidTask", "NUL byte at character 1"),
        ("llm.chat", {"messages": [{"role": "user", "content": "a\ud800"}]}, "InvalidTask", "lone surrogate"),
        ("llm.chat", {"messages": HELLO, "model": "gpt-9"}, "BackendRejected", "scripted"),
        ("llm.chat", {"messages": [{"role": "user", "content": "word " * 5000}]}, "ContextLengthExceeded", "max_tokens"),
        ("llm.embed", {"input": []}, "InvalidTask", "`input`"),
        ("llm.extract", {"text": "x", "schema": {"type": "objekt"}}, "InvalidTask", "`schema.type`"),
        ("llm.extract", {"text": "x", "schema": {"$ref": "http://127.0.0.1/s.json"}}, "InvalidTask", "$ref"),
        ("llm.extract", {"schema": OBJECT}, "InvalidTask", "exactly one of `text` and `messages`"),
        ("text.summarize", {"text": "   "}, "InvalidTask", "`text`"),
        ("text.summarize", {"text": "x", "max_length": 0}, "InvalidTask", "`max_length`"),
        ("text.summarize", {"text": "x", "language": "polish!"}, "InvalidTask", "`language`"),
        ("text.summarize", {"text": {"path": "/etc/passwd"}}, "ForbiddenInput", "outside the allowed folders"),
        ("text.summarize", {"text": {"blob": "sha256:" + "0" * 64}}, "InputUnavailable", "cannot be read"),
        ("text.summarize", {"text": {"blob": "../../etc/passwd"}}, "InvalidTask", "`text.blob`"),
        ("text.summarize", {"text": "word " * 60_000}, "InputTooLarge", "the limit is 262,144"),
        ("text.keywords", {"text": 5}, "InvalidTask", "`text`"),
        ("text.normalize", {"request": "x", "schema": OBJECT, "examples": [{}] * 4}, "InvalidTask", "`examples`"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(
    stage: Stage, task: str, arguments: dict[str, Any], kind: str, says: str
) -> None:
    found, message = stage.error(task, arguments)
    assert found == kind, message
    assert says in message


def test_a_ten_megabyte_text_is_refused_with_both_sizes(stage: Stage) -> None:
    path = str(stage.worker.directory / "big.txt")
    kind, message = stage.error("text.summarize", {"text": {"path": path}})
    assert kind == "InputTooLarge"
    assert "10,000,000 bytes" in message
    assert "8,388,608" in message


def test_a_file_that_is_not_text_is_refused(stage: Stage) -> None:
    path = str(stage.worker.directory / "latin1.txt")
    assert "is not UTF-8 text" in stage.error("text.summarize", {"text": {"path": path}})[1]


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ({"fault": "html"}, "BackendRejected", "LLM_SERVER_URL"),
        ({"fault": "garbage"}, "BackendRejected", "LLM_SERVER_URL"),
        ({"fault": "wrong_type"}, "BackendRejected", "LLM_SERVER_URL"),
        ({"fault": "json", "body": {"hello": 1}}, "BackendRejected", "LLM_SERVER_URL"),
        ({"fault": "half_body"}, "DeadLettered", "in the middle of its answer"),
        ({"fault": "huge", "bytes": 1 << 30}, "BackendRejected", "67,108,864"),
        ({"fault": "status", "status": 400}, "BackendRejected", "as scripted"),
        ({"fault": "status", "status": 401}, "BackendRejected", "LLM_API_KEY"),
        ({"fault": "status", "status": 404}, "BackendRejected", "as scripted"),
        ({"fault": "status", "status": 413}, "InputTooLarge", ""),
        ({"fault": "status", "status": 422}, "BackendRejected", "as scripted"),
        ({"fault": "status", "status": 500}, "DeadLettered", "answered 500"),
        ({"fault": "status", "status": 429}, "DeadlineExceeded", "429"),
        ({"fault": "status", "status": 503}, "DeadlineExceeded", "503"),
    ],
)
def test_a_bad_answer_of_the_server_is_named(
    stage: Stage, fault: dict[str, Any], kind: str, says: str
) -> None:
    stage.server.script({**fault, "times": -1})
    arguments = {"messages": HELLO, "options": {"deadline_s": 6}}
    error = stage.error("llm.chat", arguments)
    assert error[0] == kind, error
    assert says in error[1]


def test_a_server_that_fails_once_costs_the_task_nothing_but_time(stage: Stage) -> None:
    stage.server.script({"fault": "status", "status": 500}, {"fault": "half_body"}, {"fault": "close"})
    answer = stage.producer.send_task("llm.chat", kwargs={"messages": HELLO}).get(timeout=WAIT_S)
    assert answer["choices"][0]["message"]["content"] == "hello"
    assert answer["meta"]["attempts"] == 4


def test_a_server_that_hangs_is_given_up_at_the_deadline(stage: Stage) -> None:
    stage.server.script({"fault": "hang", "times": -1})
    kind, _ = stage.error("llm.chat", {"messages": HELLO, "options": {"deadline_s": 2}})
    assert kind in {"DeadlineExceeded", "BackendUnavailable"}


def test_answers_that_never_satisfy_the_schema_end_as_output_invalid(stage: Stage) -> None:
    stage.server.script({"fault": "content", "content": '{"name": 3}', "times": -1})
    kind, message = stage.error("llm.extract", {"text": "x", "schema": OBJECT, "max_repairs": 1})
    assert kind == "OutputInvalid"
    assert "name" in message
    assert "3 is not of type 'string'" in message


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        json.dumps([[], "kwargs are not a mapping", {}]).encode(),
        json.dumps({"wrong": "shape"}).encode(),
        b"\xff\xfe\x00",
    ],
)
def test_a_malformed_message_ends_in_failure_and_not_in_silence(stage: Stage, body: bytes) -> None:
    task_id = str(uuid.uuid4())
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "sh", "task": "llm.chat", "id": task_id, "root_id": task_id, "retries": 0},
        "properties": {
            "correlation_id": task_id, "delivery_tag": task_id, "delivery_mode": 2, "priority": 0,
            "body_encoding": "base64", "delivery_info": {"exchange": "", "routing_key": "default"},
        },
    }  # fmt: skip
    with redis.Redis.from_url(stage.store.url) as client:
        client.lpush("default", json.dumps(message))
    error = stage.producer.AsyncResult(task_id).get(timeout=WAIT_S, propagate=False)
    assert isinstance(error, Exception)


@pytest.mark.parametrize("entry", [b"garbage", b"{}", b'{"body": "%%%", "properties": {}}', b"\xff\xfe"])
def test_a_queue_entry_that_is_no_message_is_kept_as_a_dead_letter(stage: Stage, entry: bytes) -> None:
    with redis.Redis.from_url(stage.store.url) as client:
        before = client.zcard("kc:dead")
        client.lpush("default", entry)
        assert stage.serves()
        assert client.zcard("kc:dead") == before + 1


def test_errors_are_one_line_in_the_log_without_a_traceback(stage: Stage) -> None:
    stage.error("llm.chat", {"messages": []})
    assert "Traceback" not in stage.worker.log()
