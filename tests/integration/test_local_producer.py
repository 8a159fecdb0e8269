"""The command line's producer: what it sees of a task is what Celery stored."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.errors import InputTooLarge, LocalError
from worker.local.celery_worker import LocalWorker
from worker.local.child import free_port
from worker.producer import Producer, fit_message
from worker.redis_client import RedisAddress
from worker.storage.blobs import Blobs
from worker.storage.fetching import Allowed, Fetcher
from worker.storage.inputs import Inputs
from worker.storage.texts import Texts


@pytest.fixture
def sender(shared_worker: LocalWorker, redis_url: str) -> Iterator[Producer]:
    with Producer(RedisAddress(redis_url)) as producer:
        yield producer


def test_progress_of_a_long_task_is_seen(sender: Producer) -> None:
    text = "The river rose in the night and the village moved to the hill. " * 140
    task = sender.send("text.summarize", {"text": text, "max_length": 10, "max_tokens": 12}, "batch")
    seen = []
    sender.follow([task], on_update=lambda: seen.append((task.latest.state, task.latest.total)))
    assert task.latest.state == "SUCCESS"
    assert any(state == "PROGRESS" and total > 1 for state, total in seen)


def test_a_failure_is_seen_with_its_type_and_message_said_once(sender: Producer) -> None:
    task = sender.send("llm.chat", {"messages": []})
    sender.follow([task])
    assert (task.latest.state, task.latest.error_type) == ("FAILURE", "InvalidTask")
    assert task.latest.error.count("`messages`") == 1


def test_a_chain_that_breaks_ends_with_the_reason(sender: Producer) -> None:
    first, second = sender.send_chain([("text.summarize", {"text": "", "bad": 1}), ("text.keywords", {})])
    sender.follow([first, second])
    assert first.latest.failed
    assert second.latest.error_type == "InvalidTask"


def test_workers_are_told(sender: Producer) -> None:
    assert len(sender.workers()) == 1


def test_an_unreachable_redis_is_an_error_with_a_remedy_not_a_hang() -> None:
    with (
        Producer(RedisAddress(f"redis://127.0.0.1:{free_port()}")) as producer,
        pytest.raises(LocalError, match=r"cannot be used: .*kc-worker up"),
    ):
        producer.send("llm.chat", {})


def test_a_text_that_fits_stays_in_the_message(tmp_path: Path) -> None:
    store = Texts(Inputs(Blobs(tmp_path), (), Fetcher(Allowed.of(()), 5)), 10_000)
    assert fit_message({"text": "short"}, "text", store, 5000) == ({"text": "short"}, 0)


def test_a_text_that_does_not_fit_becomes_a_blob(tmp_path: Path) -> None:
    store = Texts(Inputs(Blobs(tmp_path), (), Fetcher(Allowed.of(()), 5)), 10_000)
    arguments, size_bytes = fit_message({"text": "é" * 1000, "n": 1}, "text", store, 5000)
    assert arguments["text"]["blob"].startswith("sha256:")
    assert (arguments["n"], size_bytes) == (1, 2000)


def test_a_text_over_the_limit_for_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputTooLarge):
        fit_message(
            {"text": "x" * 20_000},
            "text",
            Texts(Inputs(Blobs(tmp_path), (), Fetcher(Allowed.of(()), 5)), 10_000),
            5000,
        )
