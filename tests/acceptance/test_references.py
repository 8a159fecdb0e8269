"""Redis carries references: no picture, document or long result is ever in it."""

import contextlib
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from PIL import Image

from tests.acceptance.conftest import KcWorker
from tests.papers import PROSE, lines, pdf
from worker.local.celery_worker import LocalWorker
from worker.local.gateway import LocalGateway
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted

#: Bytes of one value.
MOST = 256 * 1024
_TAGS = ("characters", "objects", "colours", "mood", "emotions", "style", "function")
POSTER = {
    "simple_description": "A cat.",
    "research_description": "Red.",
    "tags": {tag: ["x"] for tag in _TAGS},
}

STEPS = {"steps": [{"number": 1, "action": "Wait", "role": "Clerk", "kind": "task", "next": []}]}


class Watched:
    """Everything that is said to a Redis."""

    def __init__(self, url: str) -> None:
        self.longest, self.commands, self.pictures = 0, 0, 0
        self._client = redis.Redis.from_url(url)
        self._ready = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        assert self._ready.wait(10)

    def _watch(self) -> None:
        # It ends with its Redis.
        with contextlib.suppress(redis.ConnectionError), self._client.monitor() as monitor:
            self._ready.set()
            for said in monitor.listen():
                self.commands += 1
                command = said["command"]  # with all its values, and escaped: no shorter than any of them
                self.longest = max(self.longest, len(command))
                self.pictures += "iVBORw0KGgo" in command or "data:image" in command


def noise(side: int = 1200) -> bytes:
    """A picture that no format makes small."""
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 120).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[tuple[str, str, LocalScripted, dict[str, str]]]:
    """Redis, a worker behind a scripted server that sees, and a gateway."""
    shared = {"BLOB_DIR": str(tmp_path / "blobs"), "DATABASE_URL": f"sqlite:///{tmp_path}/kc.db"}
    with (
        LocalRedis() as broker,
        LocalScripted("llamacpp", vision=1, tokens=5000, bodies=0) as scripted,
    ):
        broker.wait_ready()
        scripted.wait_ready()
        with (
            LocalWorker(
                broker.url,
                scripted.url,
                directory=tmp_path / "w",
                env={**shared, "INPUT_DIRS": str(tmp_path)},
            ) as worker,
            LocalGateway(
                broker.url, env={**shared, "OCR_RESULTS": str(tmp_path / "ocr")}, directory=tmp_path / "g"
            ) as gateway,
        ):
            worker.wait_ready()
            gateway.wait_ready()
            yield broker.url, gateway.url, scripted, {"REDIS_URL": broker.url, **shared}


def test_no_picture_and_nothing_long_is_ever_in_redis(
    ground: tuple[str, str, LocalScripted, dict[str, str]], kc_worker: KcWorker, tmp_path: Path
) -> None:
    redis_url, gateway_url, scripted, settings = ground
    picture = noise()
    assert len(picture) > 4 * MOST
    (tmp_path / "noise.png").write_bytes(picture)
    book = pdf([lines(60, 80, PROSE * 8)] * 200)
    (tmp_path / "book.pdf").write_bytes(book)
    watched = Watched(redis_url)

    (tmp_path / "posters.json").write_text(json.dumps({"items": [{"id": "n", "imageUrl": "noise.png"}]}))
    scripted.script({"fault": "content", "content": json.dumps(POSTER)})
    ran = kc_worker("posters", "posters.json", "--out", "out", **settings)
    assert ran.returncode == 0, ran.stderr

    scripted.script({"fault": "content", "content": json.dumps(STEPS)})
    answered = httpx.post(
        f"{gateway_url}/api/v1/process", files={"file": ("noise.png", picture, "image/png")}, timeout=120
    )
    assert answered.status_code == 200, answered.text

    answered = httpx.post(
        f"{gateway_url}/ocr/pdf", files={"file": ("book.pdf", book, "application/pdf")}, timeout=300
    )
    assert answered.status_code == 200, answered.text
    assert answered.json()["pages_processed"] == 200

    ran = kc_worker("ocr", "book.pdf", "noise.png", "--out", "read", **settings)
    assert (tmp_path / "read" / "book.md").stat().st_size > MOST

    said: dict[str, Any] = {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * MOST}}]}]}  # fmt: skip
    refused = httpx.post(f"{gateway_url}/v1/chat/completions", json=said, timeout=60)
    assert refused.status_code == 413

    print(f"{watched.commands:,} commands, the longest {watched.longest:,} bytes")
    assert watched.commands > 100
    assert watched.pictures == 0
    assert watched.longest < MOST
