"""Diagrams over HTTP: real Redis, a worker, a scripted vision server, and a database they share."""

import contextlib
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.integration.gateway.conftest import Answer, Call, caller_of
from worker.delivery.sending import Limits
from worker.gateway.keys import new_key
from worker.local.celery_worker import LocalWorker
from worker.local.gateway import LocalGateway
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted

STEPS = [{"number": 1, "action": "Open the mail", "role": "Clerk", "kind": "task", "next": []}]
FOUND = {"fault": "content", "content": json.dumps({"steps": STEPS}), "times": -1}
MERMAID = b"graph TD\nA[Check]-->B{Good?}\nB-->|yes|C((Done))"
ANN, ANNS = new_key("ann", Limits())
BOB, BOBS = new_key("bob", Limits())


@pytest.fixture(scope="module")
def seeing() -> Iterator[LocalScripted]:
    with LocalScripted("llamacpp", vision=1, tokens=2000) as server:
        server.wait_ready()
        server.script(FOUND)
        yield server


@pytest.fixture(scope="module")
def call(
    broker: LocalRedis, seeing: LocalScripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Call]:
    folder = tmp_path_factory.mktemp("diagrams")
    env = {
        "DATABASE_URL": f"sqlite:///{folder}/kc.db",
        "BLOB_DIR": f"{folder}/blobs",
        "MAX_INPUT_BYTES": "2097152",
    }
    keys = {"GATEWAY_API_KEYS": f"{ANNS},{BOBS}"}
    with (
        LocalWorker(broker.url, seeing.url, directory=folder / "worker", env=env) as worker,
        LocalGateway(broker.url, env={**env, **keys}, directory=folder / "gateway") as gateway,
    ):
        worker.wait_ready()
        gateway.wait_ready()
        yield caller_of(gateway.url)


def form(data: bytes | None, name: str = "order.png", **fields: Any) -> tuple[bytes, str]:
    parts = [
        f'--x\r\ncontent-disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    if data is not None:
        head = f'--x\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\ncontent-type: application/octet-stream\r\n\r\n'
        parts.append(head.encode() + data + b"\r\n")
    return b"".join([*parts, b"--x--\r\n"]), "multipart/form-data; boundary=x"


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, "PNG")
    return buffer.getvalue()


def process(call: Call, data: bytes | None, name: str = "order.png", key: str = ANN, **fields: Any) -> Answer:
    body, kind = form(data, name, **fields)
    return call("/api/v1/process", body, key=key, content_type=kind)


def test_a_picture_is_described_and_the_second_time_known(call: Call, seeing: LocalScripted) -> None:
    first = process(call, png(), formats="mermaid, json", language="pl").json
    assert first["description"].splitlines()[2] == "| 1 | Open the mail | Clerk |"
    assert first["steps"] == STEPS
    assert set(first["diagrams"]) == {"mermaid", "json"}
    assert (first["metadata"]["file_name"], first["metadata"]["cached"]) == ("order.png", False)
    assert set(first) == {"description", "metadata", "steps", "diagrams"}
    asked = seeing.seen()["total"]
    again = process(call, png(), "../../again.png", language="pl").json
    assert (again["metadata"]["file_name"], again["metadata"]["cached"]) == ("again.png", True)
    assert seeing.seen()["total"] == asked


def test_what_was_asked_is_shown_to_who_asked(call: Call) -> None:
    described = process(call, MERMAID, "a.mmd", formats="bpmn").json
    assert described["metadata"]["file_type"] == "mermaid"
    broken = process(call, b"graph TD\nA[", "b.mmd")
    assert (broken.status, "line 2" in broken.error["message"]) == (400, True)
    newest, before, *_ = call("/api/v1/recent?limit=5", key=ANN).json["data"]
    assert (newest["outcome"], newest["file_name"], newest["steps"]) == ("InvalidTask", "b.mmd", 0)
    assert "line 2" in newest["error"]
    assert (before["outcome"], before["file_hash"]) == ("success", described["metadata"]["file_hash"])
    found = call("/api/v1/statistics", key=ANN).json
    assert found["total"]["requests"] == sum(row["requests"] for row in found["by_type"].values()) >= 2
    assert found["by_outcome"]["InvalidTask"]["errors"] == 1
    assert found["by_type"]["mermaid"]["cached_share"] == 0
    assert len(found["by_day"]) == 1
    known = call(f"/api/v1/by_hash/{described['metadata']['file_hash'].upper()}", key=ANN).json
    assert (known["steps"], known["description"]) == (described["steps"], described["description"])
    assert [one["file_name"] for one in known["requests"]] == ["a.mmd"]


def test_nobody_sees_what_others_asked(call: Call) -> None:
    mine = process(call, png("blue")).json["metadata"]["file_hash"]
    assert call("/api/v1/recent", key=BOB).json == {"data": []}
    assert call("/api/v1/statistics", key=BOB).json["total"]["requests"] == 0
    assert call(f"/api/v1/by_hash/{mine}", key=BOB).status == 404
    assert call(f"/api/v1/by_hash/{mine}", key=ANN).status == 200
    assert not process(call, png("blue"), key=BOB).json["metadata"]["cached"]
    assert call("/api/v1/recent").status == 401


@pytest.mark.parametrize(
    ("data", "fields", "status", "said"),
    [
        (None, {}, 400, "`file` is missing"),
        (b"", {}, 400, "`image` is empty"),
        (png(), {"formats": "visio"}, 400, "`formats.0`"),
        (png(), {"page": "one"}, 400, "`page` has to be a number"),
        (png(), {"page": "2"}, 400, "a picture has one page"),
        (png(), {"colour": "red"}, 400, "`colour` is not a field"),
        (png(), {"adapter": "pirate"}, 400, "no LoRA adapter 'pirate'"),
        (b"PK\x03\x04\x00", {}, 400, "a ZIP archive"),
        (b"hello", {}, 400, "Give Mermaid"),
        (b"\x00" * (3 * 1024 * 1024), {}, 413, "bytes"),
    ],
)
def test_what_is_wrong_is_said(
    call: Call, data: bytes | None, fields: dict[str, str], status: int, said: str
) -> None:
    answer = process(call, data, "x.bin", **fields)
    assert (answer.status, said in answer.error["message"]) == (status, True), answer.content


def test_what_is_no_form_is_said(call: Call) -> None:
    assert call("/api/v1/process", png(), key=ANN, content_type="image/png").status == 415
    assert call("/api/v1/by_hash/abc", key=ANN).error["code"] == "not_found"
    assert call("/api/v1/recent?limit=0", key=ANN).status == 400


def test_who_goes_away_costs_no_answer(call: Call, seeing: LocalScripted) -> None:
    seeing.clear()
    seeing.script({"fault": "hang", "times": 1}, FOUND)
    body, kind = form(png("green"))
    url = call.__closure__[0].cell_contents  # type: ignore[attr-defined]
    headers = {"content-type": kind, "authorization": f"Bearer {ANN}"}
    request = urllib.request.Request(f"{url}/api/v1/process", body, headers)

    def leave() -> None:
        with contextlib.suppress(urllib.error.URLError, TimeoutError):
            urllib.request.urlopen(request, timeout=3)

    leaving = threading.Thread(target=leave)
    leaving.start()
    wait_for(lambda: seeing.seen()["in_flight"] == 1)
    leaving.join()
    wait_for(lambda: seeing.seen()["in_flight"] == 0)
    wait_for(lambda: call("/api/v1/recent?limit=1", key=ANN).json["data"][0]["outcome"] == "cancelled")


def wait_for(condition: Any, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_without_a_worker_it_is_said_at_once(fresh_redis: LocalRedis, tmp_path: Path) -> None:
    with LocalGateway(fresh_redis.url, directory=tmp_path) as gateway:
        gateway.wait_ready()
        body, kind = form(png())
        answer = caller_of(gateway.url)("/api/v1/process", body, content_type=kind)
        assert (answer.status, answer.error["code"]) == (503, "no_worker")
