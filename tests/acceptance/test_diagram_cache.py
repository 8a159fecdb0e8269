"""One picture asked about by many, through real Redis and real workers: the model looks at it once."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult
from PIL import Image

from tests.conftest import connected_producer
from worker.local.celery_worker import LocalWorker
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted

STEPS = [{"number": 1, "action": "Open the mail", "role": "Clerk", "kind": "task", "next": []}]
FOUND = {"fault": "content", "content": json.dumps({"steps": STEPS})}
REFUSED = {"fault": "status", "status": 400, "body": {"error": {"message": "no"}}, "times": 3}

Asking = Callable[..., AsyncResult]


@pytest.fixture
def scripted() -> Iterator[LocalScripted]:
    with LocalScripted("llamacpp", latency_s=1.0, vision=1, tokens=2000, slots=64) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def producer(scripted: LocalScripted, database_url: str, tmp_path: Path) -> Iterator[Celery]:
    """A producer, and two workers that share a database."""
    env = {"DATABASE_URL": database_url}
    with LocalRedis() as broker:
        broker.wait_ready()
        workers = [
            LocalWorker(broker.url, scripted.url, directory=tmp_path / f"worker-{n}", env=env)
            for n in range(2)
        ]
        try:
            for worker in workers:
                worker.wait_ready()
            with connected_producer(broker.url) as app:
                yield app
        finally:
            for worker in workers:
                worker.stop()


def ask(producer: Celery, file_name: str, **more: Any) -> AsyncResult:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), more.pop("colour", "red")).save(buffer, "PNG")
    image = {"data": base64.b64encode(buffer.getvalue()).decode()}
    return producer.send_task(
        "diagram.describe", kwargs={"image": image, "file_name": file_name, **more}, queue="default"
    )


def calls(scripted: LocalScripted) -> int:
    return sum(request["path"] == "/v1/chat/completions" for request in scripted.seen()["requests"])


def test_two_hundred_at_once_are_one_call_and_so_are_those_who_come_later(
    producer: Celery, scripted: LocalScripted
) -> None:
    scripted.script({**FOUND, "times": -1})
    results = [task.get(timeout=120) for task in [ask(producer, f"{n}.png") for n in range(200)]]
    assert calls(scripted) == 1
    assert sorted(result["meta"]["cached"] for result in results) == [False, *[True] * 199]
    assert [result["metadata"]["file_name"] for result in results] == [f"{n}.png" for n in range(200)]
    assert {json.dumps(result["steps"]) for result in results} == {json.dumps(results[0]["steps"])}
    later = ask(producer, "again.png", formats=["mermaid"]).get(timeout=60)
    assert later["metadata"]["cached"]
    assert later["diagrams"]["mermaid"].startswith("flowchart")
    assert calls(scripted) == 1
    other = ask(producer, "other.png", colour="blue").get(timeout=60)
    assert not other["metadata"]["cached"]
    assert calls(scripted) == 2


def test_where_the_first_fails_another_one_looks(producer: Celery, scripted: LocalScripted) -> None:
    scripted.script(REFUSED, {**FOUND, "times": -1})
    tasks = [ask(producer, f"{n}.png") for n in range(40)]
    ended = [task.get(timeout=120, propagate=False) for task in tasks]
    failed = [one for one in ended if isinstance(one, Exception)]
    assert [type(error).__name__ for error in failed] == ["BackendRejected"]
    assert calls(scripted) == 3 + 1
    assert sum(not one["meta"]["cached"] for one in ended if not isinstance(one, Exception)) == 1
