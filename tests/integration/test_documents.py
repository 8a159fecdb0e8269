"""Documents through real Redis and real workers, some of which are killed in the middle."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery, chain
from celery.result import AsyncResult

from tests import papers
from tests.conftest import WorkerFactory, connected_producer
from tests.faults.scale import LONG
from worker.local.celery_worker import LocalWorker
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted
from worker.storage.blobs import Blobs

#: Pages of a scan; each is different from the others.
SCAN = papers.scanned(papers.pdf([papers.said(60, 80, f"Page {number}", 20) for number in range(8)]))


@pytest.fixture(scope="module")
def server() -> Iterator[LocalScripted]:
    with LocalScripted("llamacpp", tokens=12, slots=8) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


Start = Callable[..., LocalWorker]


@pytest.fixture
def start(worker: WorkerFactory, fresh_redis: LocalRedis, server: LocalScripted, tmp_path: Path) -> Start:
    """A worker on a Redis of this test alone, which sees the same blobs as we."""

    def started(*args: str, **env: str) -> LocalWorker:
        env = {"BLOB_DIR": str(tmp_path / "blobs"), "WORKER_LEASE_S": "2", **env}
        return worker(*args, redis_url=fresh_redis.url, llm_url=server.url, env=env)

    return started


@pytest.fixture
def producer(fresh_redis: LocalRedis) -> Iterator[Celery]:
    with connected_producer(fresh_redis.url) as app:
        yield app


def read(producer: Celery, blobs: Blobs, data: bytes, **arguments: Any) -> AsyncResult:
    given = {"document": {"blob": blobs.put(data)}, **arguments}
    return producer.send_task("document.ocr", kwargs=given, queue="default")


def done(result: AsyncResult, most: int) -> int:
    """Pages that are said to be read, once there are so many."""
    deadline = time.monotonic() + (900 if LONG else 120)
    while time.monotonic() < deadline:
        info = result.info
        if result.ready() or (result.state == "PROGRESS" and info["done"] >= most):
            return int(info["done"]) if result.state == "PROGRESS" else 10**6
        time.sleep(0.02)
    raise AssertionError(f"{most} pages were not read")


def readers_of(worker: LocalWorker) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(worker.process.pid).children(recursive=True)
        if "worker.documents.child" in " ".join(child.cmdline())
    ]


def test_a_killed_worker_does_no_page_twice(start: Start, producer: Celery, blobs: Blobs) -> None:
    first = start()
    result = read(producer, blobs, SCAN, dpi=100)
    finished = done(result, 3)
    assert finished < 8
    readers = readers_of(first)
    os.kill(first.process.pid, signal.SIGKILL)
    start()
    said = result.get(timeout=120)
    assert [page["cached"] for page in said["pages"]].count(True) >= finished
    assert said["markdown"].count("Page") == said["pages_processed"] == 8
    psutil.wait_procs(readers, timeout=30)
    assert not any(reader.is_running() for reader in readers), "readers end with their worker"


def test_a_killed_reader_costs_one_try_of_one_page(start: Start, producer: Celery, blobs: Blobs) -> None:
    worker = start()
    result = read(producer, blobs, SCAN, dpi=100)
    done(result, 2)
    for reader in readers_of(worker):
        reader.kill()
    said = result.get(timeout=120)
    assert said["pages_processed"] == 8
    assert sorted(page["attempts"] for page in said["pages"]) == [1] * 7 + [2]


def test_cancelling_stops_the_reader(start: Start, producer: Celery, blobs: Blobs) -> None:
    worker = start()
    result = read(producer, blobs, SCAN)
    done(result, 1)
    before = readers_of(worker)
    producer.control.revoke(result.id, terminate=True)
    deadline = time.monotonic() + 30
    while all(reader.is_running() for reader in before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sum(reader.is_running() for reader in before) == 1, "the one that did OCR is gone"
    said = read(producer, blobs, papers.pdf([papers.said(60, 80, "After it")])).get(timeout=60)
    assert said["markdown"] == "After it"


@pytest.mark.parametrize("pool", ["threads", "solo", "prefork"])
def test_every_pool_reads_scans(start: Start, producer: Celery, blobs: Blobs, pool: str) -> None:
    worker = start("-P", pool, "-c", "1")
    said = read(producer, blobs, SCAN, pages="1", dpi=100).get(timeout=120)
    assert said["markdown"].endswith("Page 0")
    assert "Traceback" not in worker.log()


@pytest.mark.parametrize("pages", [1, 30])
def test_what_was_read_is_summarised(start: Start, producer: Celery, blobs: Blobs, pages: int) -> None:
    """A short text goes on in the message, a long one as a blob."""
    start()
    lines = papers.lines(40, 40, [" ".join(papers.PROSE)[:100]] * 50, size=8, pitch=15)
    document = papers.pdf([lines + papers.said(40, 820, f"page {number}", 8) for number in range(pages)])
    linked = chain(
        producer.signature(
            "document.ocr", kwargs={"document": {"blob": blobs.put(document)}}, queue="default"
        ),
        producer.signature("text.summarize", kwargs={"max_length": 20}, queue="default"),
    ).apply_async()
    said = linked.get(timeout=120)
    assert said["original_length"] > 500 * pages
    assert linked.parent is not None
    assert isinstance(linked.parent.get()["markdown"], dict if pages > 1 else str)


@pytest.mark.timeout(3600)
def test_200_pages_take_no_more_memory_than_20(start: Start, producer: Celery, blobs: Blobs) -> None:
    """By its text layer; FAULTS=long: by OCR."""
    worker = start(MAX_INPUT_BYTES="100000000")
    lines = papers.lines(60, 120, papers.PROSE[:1] if LONG else papers.PROSE * 6)
    pages = [papers.said(60, 80, f"Page {number}", 20) + lines for number in range(200)]
    document = papers.pdf(pages)
    if LONG:
        document = papers.pictures_pdf(papers.looked_at(papers.pdf(pages[:4]), 100) * 50, 100)
    result = read(producer, blobs, document)
    seen = done(result, 20)
    ours = psutil.Process(worker.process.pid)
    taken: list[tuple[int, int]] = []  # pages, and bytes of all processes: OCR's go up and down by a third
    while seen < 10**6:
        taken.append((seen, sum(one.memory_info().rss for one in (ours, *readers_of(worker)))))
        now = done(result, seen + 1)
        assert now > seen, "it only goes on"
        seen = now
    said = result.get(timeout=10)
    assert said["pages_processed"] == 200
    assert blobs.read(said["json"]["blob"], 10**9)
    early = max(size for page, size in taken if page <= 100)
    assert max(size for page, size in taken if page > 150) < early * 1.15 + 40 * 2**20


def test_a_worker_that_is_stopped_does_not_wait_for_its_readers(
    producer: Celery, blobs: Blobs, start: Start
) -> None:
    worker = start()
    read(producer, blobs, SCAN)
    while len(readers := readers_of(worker)) < 2:
        time.sleep(0.02)
    for reader in readers:
        reader.suspend()
    worker.process.send_signal(signal.SIGQUIT)
    worker.process.wait(timeout=40)
    _, alive = psutil.wait_procs(readers, timeout=10)
    assert not alive
