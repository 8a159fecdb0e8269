"""`kc-worker ocr` as people type it, with a real worker behind it and a real S3-speaking server."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests import papers
from tests.acceptance.conftest import KC_WORKER, KcWorker, clean_environment
from tests.unit.storage.test_blobs import S3
from worker.errors import LocalError
from worker.local.celery_worker import LocalWorker
from worker.local.child import free_port
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted
from worker.storage.papers import upload

REPORT = papers.pdf([papers.said(60, 80, "A report", 24) + papers.table(60, 120, ruled=True)])
LETTER = papers.scanned(papers.pdf([papers.lines(60, 80, papers.PROSE)]))


@pytest.fixture(scope="module")
def redis() -> Iterator[LocalRedis]:
    with LocalRedis() as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ocr")


@pytest.fixture(scope="module")
def settings(redis: LocalRedis, folder: Path) -> Iterator[dict[str, str]]:
    """Of the command; a worker with the same blobs is at work."""
    settings = {"REDIS_URL": redis.url, "BLOB_DIR": str(folder / "blobs")}
    with LocalScripted("llamacpp") as server:
        server.wait_ready()
        with LocalWorker(redis.url, server.url, env=settings, directory=folder / "worker") as worker:
            worker.wait_ready()
            yield settings


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "report.pdf").write_bytes(REPORT)
    (tmp_path / "letter.pdf").write_bytes(LETTER)
    (tmp_path / "page.html").write_text("<html>")
    (tmp_path / "locked.pdf").write_bytes(papers.pdf([b""], encrypted=True))
    return tmp_path


def test_documents_become_markdown_and_json(
    kc_worker: KcWorker, settings: dict[str, str], files: Path
) -> None:
    ran = kc_worker("ocr", "report.pdf", "letter.pdf", "--out", "read", **settings)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "report.pdf: 1 of 1 pages (text): read/report.md read/report.json",
        "letter.pdf: 1 of 1 pages (ocr): read/letter.md read/letter.json",
    ]
    assert "2 of 2 files: read" in ran.stderr
    assert (files / "read/report.md").read_text().startswith("# A report\n\n| River | Length | Source |")
    assert papers.wrong_share(" ".join(papers.PROSE), (files / "read/letter.md").read_text()) <= 0.02
    page = json.loads((files / "read/letter.json").read_text())["pages"][0]
    assert (page["source"], page["unit"], len(page["lines"][0]["box"])) == ("ocr", "pt", 4)


def test_a_bad_file_is_reported_and_the_others_are_read(
    kc_worker: KcWorker, settings: dict[str, str], files: Path
) -> None:
    names = ("page.html", "report.pdf", "locked.pdf", "missing.pdf")
    ran = kc_worker("ocr", *names, "--out", "read", **settings)
    assert ran.returncode == 1
    assert ran.stdout.startswith("report.pdf: 1 of 1 pages")
    told = ran.stderr
    assert "page.html: InputUnavailable: `document` is a web page, neither a PDF nor a picture" in told
    assert "locked.pdf: InputUnavailable: `document` is encrypted and wants a password. Remove" in told
    assert "missing.pdf: It cannot be read: No such file or directory." in told
    assert "1 of 4 files" in told


def test_a_summary_for_programs(kc_worker: KcWorker, settings: dict[str, str], files: Path) -> None:
    (files / "more").mkdir()
    (files / "more/report.pdf").write_bytes(papers.pdf([papers.said(60, 80, text) for text in "abc"]))
    ran = kc_worker("ocr", "report.pdf", "more/report.pdf", "--pages", "1", "--json", **settings)
    said = json.loads(ran.stdout)
    assert (said["completed"], said["failed"]) == (2, 0)
    assert [file["markdown"] for file in said["files"]] == ["report.md", "report-2.md"], "neither is lost"
    assert [len(file["pages"]) for file in said["files"]] == [1, 1]
    assert (files / "report-2.md").read_text() == "a"


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 2, "Missing argument 'FILE…'"),
        (("report.pdf", "--pages", "x"), 1, "`pages`: give pages as"),
        (("report.pdf", "--mode", "magic"), 2, "'magic' is not one of"),
        (("report.pdf", "--dpi", "7"), 2, "72<=x<=600"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    kc_worker: KcWorker, files: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    ran = kc_worker("ocr", *arguments, REDIS_URL="redis://127.0.0.1:1/0")
    assert ran.returncode == status
    assert says in ran.stderr


def test_a_file_that_is_too_large(kc_worker: KcWorker, settings: dict[str, str], files: Path) -> None:
    ran = kc_worker("ocr", "letter.pdf", **settings, MAX_INPUT_BYTES="1024")
    assert ran.returncode == 1
    assert "bytes, the limit is 1,024: raise MAX_INPUT_BYTES." in ran.stderr


def test_warming_up_needs_no_redis(kc_worker: KcWorker) -> None:
    ran = kc_worker("ocr", "--warm-up", REDIS_URL="redis://127.0.0.1:1/0")
    assert (ran.returncode, ran.stdout) == (0, "PP-OCRv6_small: Ready to read 2026\n")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    port = free_port()
    aws = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    for name, value in aws.items():
        monkeypatch.setenv(name, value)
    return aws


def _stored(path: str) -> str:
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    return files.cat_file(path).decode()


def test_a_copy_goes_to_s3_also_when_it_is_started_again_meanwhile(
    settings: dict[str, str], files: Path, aws: dict[str, str]
) -> None:
    """It is away when the first file is read; the command waits for it and goes on."""
    port = int(aws["AWS_ENDPOINT_URL"].rpartition(":")[2])
    S3(port).stop()
    began: list[S3] = []
    command = [
        *KC_WORKER,
        "ocr",
        "report.pdf",
        "letter.pdf",
        "--out",
        "read",
        "--s3",
        "s3://bucket/ocr-results",
    ]
    running = subprocess.Popen(
        command, cwd=files, env=clean_environment(**settings, **aws), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None
    told = running.stderr.readline()
    assert "s3://bucket/ocr-results does not take report" in told
    assert "trying again" in told
    began.append(S3(port))
    try:
        stdout, stderr = running.communicate(timeout=120)
        assert running.returncode == 0, stderr
        assert "s3://bucket/ocr-results/letter.md s3://bucket/ocr-results/letter.json" in stdout
        assert _stored("bucket/ocr-results/report.md") == (files / "read/report.md").read_text()
        assert json.loads(_stored("bucket/ocr-results/letter.json"))["pages"][0]["source"] == "ocr"
    finally:
        began[0].stop()


def test_an_upload_that_does_not_work_is_given_up(aws: dict[str, str]) -> None:
    with pytest.raises(LocalError, match="s3://bucket/x does not take a: "):
        upload("s3://bucket/x", "a", (b"m", b"j"), patience_s=0.5)
    with S3(int(aws["AWS_ENDPOINT_URL"].rpartition(":")[2])), pytest.raises(LocalError, match="not take a: "):
        upload("s3://no-such-bucket/x", "a", (b"m", b"j"), patience_s=0.5)
