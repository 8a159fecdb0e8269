"""`kc-worker blobs sweep`: old blobs go, those that a task refers to stay, wherever it is."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.acceptance.conftest import KcWorker
from tests.conftest import connected_producer
from worker.local.redis import LocalRedis
from worker.storage.blobs import Blobs

OLD_S = 60 * 86400


def aged(store: Blobs, folder: Path, text: str) -> str:
    reference = store.put(text.encode())
    path = folder / reference[7:9] / reference[7:]
    then = path.stat().st_mtime - OLD_S
    os.utime(path, (then, then))
    return reference


def test_old_blobs_that_nobody_refers_to_are_removed(
    kc_worker: KcWorker, fresh_redis: LocalRedis, tmp_path: Path
) -> None:
    folder = tmp_path / "blobs"
    store = Blobs(folder)
    waiting, delayed, unwanted = (aged(store, folder, text) for text in ("waiting", "delayed", "unwanted"))
    fresh = store.put(b"fresh")
    with connected_producer(fresh_redis.url) as producer:
        producer.send_task("text.summarize", kwargs={"text": {"blob": waiting}}, queue="batch")
        eta = datetime.now(UTC) + timedelta(days=1)
        producer.send_task("text.keywords", kwargs={"text": {"blob": delayed}}, queue="default", eta=eta)
    settings = {"REDIS_URL": fresh_redis.url, "BLOB_DIR": str(folder)}
    counted = kc_worker("blobs", "sweep", "--dry-run", **settings)
    assert counted.stdout == "1 blobs would be removed, 8 bytes; 2 are referred to.\n", counted.stderr
    assert kc_worker("blobs", "sweep", "--older-than", "90d", **settings).stdout.startswith("0 blobs removed")
    assert kc_worker("blobs", "sweep", **settings).stdout.startswith("1 blobs removed, 8 bytes")
    left = {f"sha256:{path.name}" for path in folder.glob("*/*")}
    assert left == {waiting, delayed, fresh} != {unwanted}
    assert kc_worker("blobs", "sweep", "--older-than", "soon", **settings).returncode == 2
