"""Files in their folder."""

import io
import os
import time
from pathlib import Path

import pytest

from worker.storage.files import FileStore

HOUR = 3600


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


def put(store: FileStore, owner: str = "anna", name: str = "in.jsonl", expires_at: int | None = None) -> str:
    return store.put(owner, io.BytesIO(b"hello"), name, "batch", expires_at).id


def test_a_file_is_there_for_its_owner_alone(store: FileStore) -> None:
    file_id = put(store)
    found = store.get("anna", file_id)
    assert found is not None
    assert (found.bytes, found.filename, found.purpose) == (5, "in.jsonl", "batch")
    assert store.path("anna", file_id).read_bytes() == b"hello"
    assert store.get("bert", file_id) is None
    assert not store.delete("bert", file_id)
    assert list(store.of_owner("bert")) == []


@pytest.mark.parametrize("owner", ["..", "../anna", "/etc", "a\0b", "Anna"])
def test_no_owner_is_a_path(store: FileStore, tmp_path: Path, owner: str) -> None:
    put(store, owner)
    assert store.get("anna", put(store, owner)) is None
    assert all(one.parent.parent == tmp_path for one in tmp_path.rglob("*.data"))


@pytest.mark.parametrize(
    "file_id", ["", "..", "../x", "file-" + "0" * 31, "file-" + "Z" * 32, "file-/../../x"]
)
def test_an_id_that_is_none_of_ours_names_nothing(store: FileStore, file_id: str) -> None:
    assert store.get("anna", file_id) is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\a.jsonl", "a.jsonl"),
        ("a\r\nb\0", "ab"),
        ("", "file"),
        ("/", "file"),
    ],
)
def test_a_name_is_only_a_name(store: FileStore, given: str, kept: str) -> None:
    found = store.get("anna", put(store, name=given))
    assert found is not None
    assert found.filename == kept


def test_the_newest_comes_first(store: FileStore) -> None:
    ids = []
    for _ in range(3):
        ids.append(put(store))
        time.sleep(0.002)
    assert [one.id for one in store.of_owner("anna")] == ids[::-1]


def test_what_has_expired_is_gone_and_swept(store: FileStore, tmp_path: Path) -> None:
    kept, gone = put(store, expires_at=int(time.time()) + HOUR), put(store, expires_at=int(time.time()))
    assert store.get("anna", gone) is None
    assert [one.id for one in store.of_owner("anna")] == [kept]
    assert store.sweep() == 1
    assert [one.stem for one in tmp_path.rglob("*.data")] == [kept]


def test_what_an_upload_left_behind_is_swept_in_time(store: FileStore, tmp_path: Path) -> None:
    put(store)
    part = store.path("anna", store.new_id()).with_suffix(".part")
    part.write_bytes(b"half")
    data = store.path("anna", store.new_id())
    data.write_bytes(b"of a batch that runs")
    store.sweep()
    assert part.exists()
    os.utime(part, (0, 0))
    store.sweep()
    assert not part.exists()
    assert data.exists()
    os.utime(data, (0, 0))
    store.sweep()
    assert not data.exists()


def test_a_card_that_cannot_be_read_stops_nothing(store: FileStore, tmp_path: Path) -> None:
    kept, gone = put(store), put(store, expires_at=int(time.time()))
    card = next(tmp_path.rglob(f"{kept}.json"))
    card.write_text('{"id": "x", "new_field": 1}')
    assert store.sweep() == 1
    assert card.exists()
    assert not list(tmp_path.rglob(f"{gone}*"))


def test_an_upload_that_breaks_off_leaves_nothing(store: FileStore, tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, _size: int | None = -1) -> bytes:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        store.put("anna", Broken(), "a", "batch")
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]


def test_publishing_again_changes_nothing(store: FileStore) -> None:
    file_id = store.new_id()
    path = store.path("anna", file_id)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    first = store.publish("anna", file_id, "out", "batch_output", int(time.time()) + HOUR)
    assert store.publish("anna", file_id, "other", "batch") == first
