"""Real parts for every test: Redis, llama.cpp with SmolLM2, worker processes. A missing one is a failure."""

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from celery import Celery

from tests.postgresql import PostgreSQL, programs
from worker.local.celery_worker import LocalWorker
from worker.local.llamacpp import LocalLlama
from worker.local.redis import LocalRedis

# Time limits measure the machine. CI tries the same examples each time; a developer's runs go on searching.
hypothesis.settings.register_profile(
    "default", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("default"), deadline=None, derandomize=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")

WorkerFactory = Callable[..., LocalWorker]

#: Context of the shared llama.cpp server, tokens a request, and how many requests it works on at once.
LLAMA_CONTEXT = 2048
LLAMA_SLOTS = 4


@pytest.fixture(scope="session")
def redis_server() -> Iterator[LocalRedis]:
    """One Redis for all tests of this process. A test that flushes, stops or fills it takes `fresh_redis`."""
    with LocalRedis() as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: LocalRedis) -> str:
    return redis_server.url


@pytest.fixture
def fresh_redis() -> Iterator[LocalRedis]:
    """A Redis for this test alone (it starts in 30 ms)."""
    with LocalRedis() as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def llama_url(shared_llama: "SharedLlama") -> str:
    """llama.cpp with SmolLM2-135M, one server for the whole run; completions and embeddings."""
    return shared_llama.url()


@pytest.fixture
def worker(redis_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[WorkerFactory]:
    """`worker(*celery_args, redis_url=…, llm_url=…, backend=…, env={…}, ready=True)` starts a worker process.

    Its log stays readable after `stop()`. Without `llm_url` it works with the shared llama.cpp.
    """
    with contextlib.ExitStack() as started:

        def start(
            *args: str,
            redis_url: str = redis_url,
            llm_url: str | None = None,
            backend: str = "llamacpp",
            env: dict[str, str] | None = None,
            ready: bool = True,
        ) -> LocalWorker:
            number = len(list(tmp_path.glob("worker-*")))
            process = LocalWorker(
                redis_url,
                llm_url or request.getfixturevalue("llama_url"),
                backend=backend,
                env=env,
                args=args,
                directory=tmp_path / f"worker-{number}",
            )
            started.enter_context(process)
            if ready:
                process.wait_ready()
            return process

        yield start


@pytest.fixture(scope="session")
def shared_worker(
    redis_url: str, llama_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalWorker]:
    """One worker on `redis_url` and `llama_url` for the tests that only send it tasks."""
    folder = tmp_path_factory.mktemp("shared-worker")
    with LocalWorker(redis_url, llama_url, args=["--without-mingle"], directory=folder) as process:
        process.wait_ready()
        yield process


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One PostgreSQL for all tests of this process; each makes a database of its own in it."""
    if (found := programs()) is None:
        pytest.skip("PostgreSQL is not installed here (apt-get install postgresql)")
    with PostgreSQL(found) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database: each test that takes it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'kc.db'}"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = f"test_{uuid.uuid4().hex}"
    yield server.create(name)
    server.drop(name)


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalRedis]:
    """Of one module alone: no other worker takes its tasks."""
    with LocalRedis() as server:
        server.wait_ready()
        yield server


@pytest.fixture
def producer(redis_url: str) -> Iterator[Celery]:
    """A producer as other services write it: plain Celery, nothing of ours."""
    with connected_producer(redis_url) as app:
        yield app


@contextlib.contextmanager
def connected_producer(redis_url: str) -> Iterator[Celery]:
    """A plain Celery producer whose connections are closed afterwards."""
    app = Celery("producer", broker=redis_url, backend=redis_url, set_as_current=False)
    try:
        yield app
    finally:
        close_producer(app)


def close_producer(app: Celery) -> None:
    """Close a producer's connections for good."""
    backend: Any = app.backend
    backend.result_consumer.stop()
    # Results collected later would unsubscribe, from a Redis that may be gone by then.
    backend.result_consumer.subscribed_to.clear()
    backend.client.close()
    app.close()


class SharedLlama:
    """One llama.cpp for all processes of a test run: who asks first starts it and leaves last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._users = folder / "users"
        self._mine: LocalLlama | None = None

    def url(self) -> str:
        self._users.mkdir(parents=True, exist_ok=True)
        state = self._folder / "llama.json"
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (self._users / str(os.getpid())).touch()
            if state.exists():
                return str(json.loads(state.read_text())["url"])
            self._mine = LocalLlama(slots=LLAMA_SLOTS, context=LLAMA_CONTEXT)
            try:
                self._mine.wait_ready()
            except BaseException:
                self._mine.stop()
                raise
            state.write_text(json.dumps({"url": self._mine.url}))
            return self._mine.url

    def release(self) -> None:
        (self._users / str(os.getpid())).unlink(missing_ok=True)
        if self._mine is not None:
            while any(_alive(int(user.name)) for user in self._users.iterdir()):
                time.sleep(0.05)
            self._mine.stop()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


_SHARED_LLAMA = pytest.StashKey[SharedLlama]()


@pytest.fixture(scope="session")
def shared_llama(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> SharedLlama:
    base = tmp_path_factory.getbasetemp()
    # Under xdist the parent folder belongs to this run; without, base itself does.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "llama"
    return pytestconfig.stash.setdefault(_SHARED_LLAMA, SharedLlama(folder))


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Not in the fixture: waiting for the other processes must not count against a test's time limit.
    if shared := session.config.stash.get(_SHARED_LLAMA, None):
        shared.release()
