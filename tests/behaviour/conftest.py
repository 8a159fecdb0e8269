"""What every engine must do alike, asked by a plain Celery producer through a real worker.

Without ENGINE the suite runs on a llama.cpp server of its own (`make test`); `make test-engines` runs it on
each engine, with ENGINE, LLM_BACKEND and LLM_SERVER_URL in the environment.
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from celery import Celery
from celery.result import AsyncResult

from worker.backends.base import Backend, BackendOptions
from worker.backends.registry import BackendName, create_backend
from worker.local.celery_worker import LocalWorker
from worker.local.llamacpp import LocalLlama
from worker.local.redis import LocalRedis

#: Seconds an answer may take: two cores, shared with whatever else runs.
WAIT_S = 240.0
_SLOTS = 4


@dataclass(frozen=True, slots=True)
class Expected:
    """What an engine, as the tests start it, must be found to be.

    Attributes:
        server: how it shows itself.
        slots: requests at once; None where it does not say.
        structured: the strongest constrained decoding.
        embeddings: whether it embeds.
        repeats: whether the same request with the same seed gets the same answer, whatever runs beside it.
        counts_streams: whether a streamed answer says how many tokens it took.
    """

    server: str
    slots: int | None
    structured: Literal["json_schema", "json_object"]
    embeddings: bool
    repeats: bool
    counts_streams: bool


EXPECTED = {
    "llama.cpp": Expected(
        "llama.cpp", _SLOTS, "json_schema", embeddings=True, repeats=False, counts_streams=True
    ),
    "llama-cpp-python": Expected(
        "llama-cpp-python", 1, "json_object", embeddings=False, repeats=True, counts_streams=False
    ),
    "vllm": Expected("vllm", None, "json_schema", embeddings=False, repeats=False, counts_streams=True),
}


@dataclass(frozen=True, slots=True)
class Engine:
    """The server under test.

    Attributes:
        name: a key of EXPECTED.
        backend: LLM_BACKEND.
        url: LLM_SERVER_URL.
    """

    name: str
    backend: BackendName
    url: str

    @property
    def expected(self) -> Expected:
        return EXPECTED[self.name]

    def working_on(self) -> int:
        """Requests it generates for at this moment, by its own account."""
        if self.name == "llama-cpp-python":  # it has no such page, but this one waits for the model's lock
            try:
                httpx.get(f"{self.url}/v1/models", timeout=1)
            except httpx.ReadTimeout:
                return 1
            return 0
        if self.name == "llama.cpp":
            slots = httpx.get(f"{self.url}/slots", timeout=WAIT_S).json()
            return sum(slot["is_processing"] for slot in slots)
        metrics = httpx.get(f"{self.url}/metrics", timeout=WAIT_S).text
        lines = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_running")]
        return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if name := os.environ.get("ENGINE"):
        backend: Any = os.environ["LLM_BACKEND"]
        yield Engine(name, backend, os.environ["LLM_SERVER_URL"])
        return
    with LocalLlama(slots=_SLOTS, directory=tmp_path_factory.mktemp("llama.cpp")) as server:
        server.wait_ready()
        yield Engine("llama.cpp", "llamacpp", server.url)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis of this suite's own: no other suite's worker may take its tasks."""
    with LocalRedis() as server:
        server.wait_ready()
        yield server.url


@pytest.fixture(scope="session")
def shared_worker(
    redis_url: str, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalWorker]:
    """The worker of this suite; nothing but the backend and the URL says which engine it works with."""
    folder: Path = tmp_path_factory.mktemp("behaviour-worker")
    with LocalWorker(
        redis_url, engine.url, backend=engine.backend, args=["--without-mingle"], directory=folder
    ) as process:
        process.wait_ready()
        yield process


@pytest.fixture
async def backend(engine: Engine) -> AsyncIterator[Backend]:
    """The engine as tasks see it, without a worker between."""
    made = create_backend(engine.backend, BackendOptions(urls=(engine.url,)))
    yield made
    await made.aclose()


class Tasks:
    """A producer that waits for answers."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def send(self, name: str, **arguments: Any) -> AsyncResult[Any]:
        return self.app.send_task(name, kwargs=arguments, headers={"sent_at": time.time()})

    def signature(self, name: str, **arguments: Any) -> Any:
        return self.app.signature(name, kwargs=arguments, queue="default")

    def run(self, name: str, **arguments: Any) -> dict[str, Any]:
        """The result of a task that succeeds."""
        result: dict[str, Any] = self.send(name, **arguments).get(timeout=WAIT_S)
        return result

    def failure(self, name: str, **arguments: Any) -> tuple[str, str]:
        """Type and message of what a task fails with."""
        with pytest.raises(Exception, match=r"(?s).") as caught:
            self.send(name, **arguments).get(timeout=WAIT_S)
        return type(caught.value).__name__, str(caught.value)


@pytest.fixture
def tasks(shared_worker: LocalWorker, producer: Celery) -> Tasks:
    return Tasks(producer)


@pytest.fixture
def until() -> Callable[..., None]:
    """`until(condition, what)` waits for it."""

    def until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        give_up = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < give_up, f"not within {timeout_s:g} s: {what}"
            time.sleep(0.02)

    return until
