"""POST /ocr/pdf: what the OCR service answered, through the queue."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import papers
from tests.integration.gateway.conftest import Answer, Call, GatewayFactory, caller_of
from worker.delivery.sending import Limits
from worker.gateway.keys import new_key
from worker.local.celery_worker import LocalWorker
from worker.local.gateway import LocalGateway
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted

REPORT = papers.pdf([papers.said(60, 80, "A report", 24) + papers.table(60, 120, ruled=True)])
SLOW = papers.scanned(papers.pdf([papers.lines(60, 80, papers.PROSE * 8, pitch=16)] * 6), noise=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents")


@pytest.fixture(scope="module")
def reading(broker: LocalRedis, folder: Path) -> Iterator[LocalWorker]:
    """A worker whose model cannot see."""
    env = {"BLOB_DIR": str(folder / "blobs")}
    with LocalScripted("llamacpp") as server:
        server.wait_ready()
        with LocalWorker(broker.url, server.url, env=env, directory=folder / "worker") as worker:
            worker.wait_ready()
            yield worker


@pytest.fixture(scope="module")
def gateway(broker: LocalRedis, folder: Path) -> Iterator[LocalGateway]:
    env = {
        "BLOB_DIR": str(folder / "blobs"),
        "OCR_RESULTS": str(folder / "results"),
        "MAX_INPUT_BYTES": "4000000",
    }
    with LocalGateway(broker.url, env=env, directory=folder / "gateway") as gateway:
        gateway.wait_ready()
        yield gateway


def form(file: bytes | None, name: str = "report.pdf", **fields: str) -> tuple[bytes, dict[str, str]]:
    """A multipart body, and its headers."""
    parts = [f'form-data; name="{field}"\r\n\r\n{value}'.encode() for field, value in fields.items()]
    if file is not None:
        head = f'form-data; name="file"; filename="{name}"\r\nContent-Type: application/pdf\r\n\r\n'
        parts.append(head.encode() + file)
    body = b"".join(b"--xyz\r\nContent-Disposition: " + part + b"\r\n" for part in parts) + b"--xyz--\r\n"
    return body, {"content_type": "multipart/form-data; boundary=xyz"}


def post(
    call: Call, file: bytes | None, name: str = "report.pdf", key: str = "", query: str = "", **fields: str
) -> Answer:
    body, headers = form(file, name, **fields)
    return call(f"/ocr/pdf{query}", body, key=key, **headers)


def test_no_worker_reads_documents(call: Call) -> None:
    answer = post(call, REPORT)
    assert (answer.status, answer.error["code"]) == (503, "ocr_unavailable")
    assert "No live worker" in answer.error["message"]
    assert call("/health").json["ocr"]["status"] == "unavailable"
    health = call("/ocr/health")
    assert (health.status, health.json["ocr"]["reason"]) == (503, "No live worker reads documents.")


def test_a_pdf_is_read(call: Call, reading: LocalWorker, folder: Path) -> None:
    answer = post(call, REPORT, "Q1 report (final).pdf")
    assert answer.status == 200, answer.content
    said = answer.json
    assert (said["status"], said["input_file"], said["pages_processed"]) == (
        "success",
        "Q1 report (final).pdf",
        1,
    )
    assert "s3_files" not in said
    assert said["timestamp"].startswith("20")
    markdown = Path(said["local_files"]["markdown"])
    assert markdown == folder / "results" / said["task_id"] / "Q1_report_final.md"
    assert markdown.read_text().startswith("# A report\n\n| River |")
    assert json.loads(Path(said["local_files"]["json"]).read_text())["pages"][0]["lines"]
    assert said["pages"][0]["source"] == "text"
    loaded = call(said["downloads"]["markdown"])
    assert (loaded.status, loaded.content) == (200, markdown.read_bytes())
    assert loaded.headers["content-type"] == "text/markdown; charset=utf-8"
    assert call(said["downloads"]["json"]).json["kind"] == "pdf"
    state = call(f"/v1/tasks/{said['task_id']}").json
    assert (state["task"], state["state"]) == ("document.ocr", "SUCCESS")


def test_health_names_the_models(call: Call, reading: LocalWorker) -> None:
    _until(lambda: call("/health").status == 200)
    assert call("/health").json["ocr"] == {
        "status": "ok", "reason": "", "missing": [],
        "present": ["PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"],
    }  # fmt: skip
    health = call("/ocr/health")
    assert (health.status, health.json["status"], health.json["ocr"]["missing"]) == (200, "ok", [])


@pytest.mark.parametrize("where", ["form", "query"])
def test_fields_in_the_form_and_in_the_url(call: Call, reading: LocalWorker, where: str) -> None:
    three = papers.pdf([papers.said(60, 80, text, 20) for text in ("one", "two", "three")])
    fields = {"pages": "2-3", "mode": "ocr", "dpi": "100"}
    query = "?" + "&".join(f"{name}={value}" for name, value in fields.items())
    answer = post(call, three, **fields) if where == "form" else post(call, three, query=query)
    assert [(page["page"], page["source"]) for page in answer.json["pages"]] == [(2, "ocr"), (3, "ocr")]


@pytest.mark.parametrize(
    ("file", "fields", "status", "code", "says"),
    [
        (b"hello", {}, 400, "not_a_pdf", "`file` is not a PDF"),
        (b"", {}, 400, "not_a_pdf", "`file` is not a PDF"),
        (None, {}, 400, None, "`file` is missing"),
        (REPORT, {"pages": "x"}, 400, None, "`pages`: give pages"),
        (REPORT, {"pages": "9"}, 400, None, "there is no page 9"),
        (REPORT, {"mode": "magic"}, 400, None, "`mode`"),
        (REPORT, {"dpi": "many"}, 400, None, "`dpi` has to be a number"),
        (REPORT, {"colour": "red"}, 400, None, "`colour` is not a field of this form"),
        (papers.pdf([b""], encrypted=True), {}, 422, "input_unavailable", "`document` is encrypted"),
        (REPORT[:300], {}, 422, "input_unavailable", "truncated or damaged"),
        (b"%PDF-1.4" + bytes(4_000_000), {}, 413, "input_too_large", "`file` has more than 4,000,000 bytes"),
        (papers.pdf([b""], size=(7200, 7200)), {"mode": "ocr"}, 413, "input_too_large", "20,000 x 20,000"),
        (REPORT, {"mode": "vlm"}, 400, "backend_rejected", "cannot see pictures"),
    ],
)
def test_what_is_refused(
    call: Call, reading: LocalWorker, file: bytes | None, fields: dict[str, str], status: int, code: str | None,
    says: str,
) -> None:  # fmt: skip
    answer = post(call, file, **fields)
    assert (answer.status, answer.error["code"]) == (status, code), answer.content
    assert says in answer.error["message"]


def test_a_body_that_is_no_form(call: Call, reading: LocalWorker) -> None:
    assert call("/ocr/pdf", REPORT, content_type="application/pdf").status == 415
    assert call("/ocr/pdf", b"x" * 5_000_000, content_type="multipart/form-data; boundary=xyz").status == 413


def test_the_deadline(call: Call, reading: LocalWorker) -> None:
    answer = post(call, SLOW, deadline_s="0.5")
    assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")


def test_who_goes_away_cancels_it(
    call: Call, gateway: LocalGateway, reading: LocalWorker, broker: LocalRedis
) -> None:
    body, headers = form(SLOW + b"\n")
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.request("POST", "/ocr/pdf", body, {"content-type": headers["content_type"]})
    _until(lambda: call("/v1/capacity").json["reserved"] == 1)
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    _until(lambda: call("/v1/capacity").json["reserved"] == 0)
    assert post(call, REPORT).status == 200


def test_nobody_gets_the_documents_of_others(
    open_gateway: GatewayFactory, reading: LocalWorker, folder: Path
) -> None:
    (ann, ann_entry), (bob, bob_entry) = (new_key(name, Limits()) for name in ("ann", "bob"))
    gateway = open_gateway(
        GATEWAY_API_KEYS=f"{ann_entry},{bob_entry}",
        BLOB_DIR=str(folder / "blobs"),
        OCR_RESULTS=str(folder / "own"),
    )
    call = caller_of(gateway.url)
    assert post(call, REPORT).status == 401
    said = post(call, REPORT, key=ann).json
    download = said["downloads"]["markdown"]
    assert call(download, key=ann).status == 200
    for wrong in (bob, ""):
        assert call(download, key=wrong).status in {401, 404}
    assert call("/ocr/results/..%2f..%2fsecret/markdown", key=ann).status == 404


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
