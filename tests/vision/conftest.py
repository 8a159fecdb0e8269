"""A real engine that takes pictures: llama.cpp here, vLLM where ENGINE says so (`make test-engines`)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.vision.projector import write_projector
from worker.local.celery_worker import LocalWorker
from worker.local.llamacpp import LocalLlama
from worker.local.redis import LocalRedis


@dataclass(frozen=True, slots=True)
class Engine:
    """The server under test.

    Attributes:
        backend: LLM_BACKEND.
        url: LLM_SERVER_URL.
        picture_tokens: fewest tokens a picture takes.
    """

    backend: Any
    url: str
    picture_tokens: int


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if os.environ.get("ENGINE"):
        yield Engine(os.environ["LLM_BACKEND"], os.environ["LLM_SERVER_URL"], 4)
        return
    folder = tmp_path_factory.mktemp("llama.cpp")
    write_projector(folder / "mmproj.gguf")
    with LocalLlama(projector=folder / "mmproj.gguf", slots=2, embeddings=False, directory=folder) as server:
        server.wait_ready()
        yield Engine("llamacpp", server.url, 16)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with LocalRedis() as server:
        server.wait_ready()
        yield server.url


@pytest.fixture(scope="session")
def shared_worker(
    redis_url: str, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalWorker]:
    folder = tmp_path_factory.mktemp("vision-worker")
    with LocalWorker(redis_url, engine.url, backend=engine.backend, directory=folder) as process:
        process.wait_ready()
        yield process
