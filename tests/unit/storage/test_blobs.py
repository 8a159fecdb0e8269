"""Blobs in a folder and in a real S3-speaking server."""

import asyncio
import hashlib
import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from worker.errors import InputTooLarge, InputUnavailable, LocalError
from worker.gateway.answers import ApiError
from worker.gateway.forms import Upload
from worker.local.child import Child, free_port
from worker.storage.blobs import Blobs

DAY = 86400


class S3(Child):
    """A server that speaks S3, with one bucket, which can come back on its port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        super().__init__("s3", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])
        self.wait_until(self._answers, 60)

    def _answers(self) -> bool:
        try:
            request = urllib.request.Request(self.url + "/bucket", method="PUT")
            urllib.request.urlopen(request, timeout=5).close()
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with S3(free_port()) as server:
        yield server.url


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    if request.param == "folder":
        return Blobs(tmp_path / "blobs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3"))
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    return Blobs(f"s3://bucket/{time.time_ns()}")


def test_what_was_put_is_read_by_its_hash(blobs: Blobs) -> None:
    reference = blobs.put(b"hello")
    assert reference == f"sha256:{hashlib.sha256(b'hello').hexdigest()}"
    assert blobs.put(b"hello") == reference
    assert blobs.read(reference, 5) == b"hello"


def test_what_was_worked_out_is_kept_under_a_hash_of_what_from(blobs: Blobs) -> None:
    key = hashlib.sha256(b"page 1 of it").hexdigest()
    assert blobs.kept(key) is None
    for data in (b"as it was", b"as it is", b""):
        blobs.keep(key, data)
        assert blobs.kept(key) == data
    blobs.sweep(-60, {f"sha256:{hashlib.sha256(b'another').hexdigest()}"})
    assert blobs.kept(key) is None


def test_what_was_kept_and_is_damaged_is_nothing(tmp_path: Path) -> None:
    blobs, key = Blobs(tmp_path), "ab" * 32
    blobs.keep(key, b"whole")
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    path.write_bytes(path.read_bytes()[:-1])
    assert blobs.kept(key) is None


def test_what_is_not_there_or_too_large(blobs: Blobs) -> None:
    with pytest.raises(InputUnavailable, match="no such blob"):
        blobs.read("sha256:" + "0" * 64, 5)
    reference = blobs.put(b"hello")
    with pytest.raises(InputTooLarge, match="5 bytes"):
        blobs.read(reference, 4)


def test_old_blobs_are_swept_unless_somebody_refers_to_them(blobs: Blobs) -> None:
    kept, gone = blobs.put(b"kept"), blobs.put(b"gone!")
    assert blobs.sweep(DAY, ()) == (0, 0)
    assert blobs.sweep(-DAY, {kept}) == (1, 5)
    assert blobs.read(kept, 10) == b"kept"
    with pytest.raises(InputUnavailable):
        blobs.read(gone, 10)


def test_a_damaged_blob_is_not_handed_out(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    reference = blobs.put(b"hello")
    next(tmp_path.glob("*/*")).write_bytes(b"jello")
    with pytest.raises(InputUnavailable, match="damaged"):
        blobs.read(reference, 5)


def test_putting_again_makes_a_blob_new(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.put(b"hello")
    path = next(tmp_path.glob("*/*"))
    os.utime(path, (0, 0))
    blobs.put(b"hello")
    assert blobs.sweep(DAY, ()) == (0, 0)


def test_an_unknown_kind_of_url_says_what_to_do() -> None:
    with pytest.raises(LocalError, match="BLOB_DIR=nope://x"):
        Blobs("nope://x")


async def test_a_store_that_is_away_is_a_reason_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_MAX_ATTEMPTS", "1"),
    ):
        monkeypatch.setenv(name, value)
    with S3(free_port()) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # that of another server
        blobs = Blobs(f"s3://bucket/{time.time_ns()}")
        reference = blobs.put(b"hello")
        blobs.keep("0" * 64, b"hello")
    for asked in (
        lambda: blobs.put(b"more"),
        lambda: blobs.keep("1" * 64, b"more"),
        lambda: blobs.read(reference, 10),
    ):
        with pytest.raises(InputUnavailable, match=r"Try again when it is back") as caught:
            await asyncio.to_thread(asked)
        assert caught.value.retryable
    assert await asyncio.to_thread(blobs.kept, "0" * 64) is None
    with pytest.raises(ApiError) as refused:
        await Upload("a.pdf", b"more", {}).kept(blobs)
    assert (refused.value.status, refused.value.body["error"]["code"]) == (503, "storage_away")
