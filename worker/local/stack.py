"""Redis, llama.cpp, a worker and the gateway, started together and always stopped together."""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.errors import LocalError
from worker.local.celery_worker import LocalWorker
from worker.local.child import Child
from worker.local.gateway import LocalGateway
from worker.local.llamacpp import LocalLlama
from worker.local.redis import LocalRedis

_WATCH_S = 0.5


@dataclass(frozen=True, slots=True)
class Serving:
    """What llama.cpp serves.

    Attributes:
        model: GGUF file; None: the bundled one.
        projector: mmproj GGUF file with which a vision-language model sees; None: it does not.
        slots: requests it works on at once.
        context: tokens of prompt and answer, each request.
    """

    model: Path | None = None
    projector: Path | None = None
    slots: int = 4
    context: int = 2048


class LocalStack:
    """The set of one machine, self-contained: servers named in the settings are not used.

    Enter it on the main thread. Leaving it stops everything, also after an error while starting.

    Args:
        serving: what llama.cpp serves.
        redis_port: TCP port of Redis; None: a free one.
        llm_port: TCP port of llama.cpp; None: a free one.
        with_worker: start a worker too.
        worker_env: more settings for the worker.
        gateway_port: TCP port of the gateway; None: there is none.
        gateway_env: more settings for the gateway.
        home: folder for logs and for Redis' data, which outlives a restart; None: nothing is kept.

    Attributes:
        redis: the Redis server.
        llama: the llama.cpp server.
        worker: the worker, None without one.
        gateway: the gateway, None without one.
    """

    redis: LocalRedis
    llama: LocalLlama
    worker: LocalWorker | None
    gateway: LocalGateway | None

    def __init__(
        self,
        serving: Serving,
        *,
        redis_port: int | None = None,
        llm_port: int | None = None,
        with_worker: bool = True,
        worker_env: Mapping[str, str] | None = None,
        gateway_port: int | None = None,
        gateway_env: Mapping[str, str] | None = None,
        home: Path | None = None,
    ) -> None:
        self._serving = serving
        self._redis_port = redis_port
        self._llm_port = llm_port
        self._with_worker = with_worker
        self._worker_env = dict(worker_env or {})
        self._gateway_port = gateway_port
        self._gateway_env = dict(gateway_env or {})
        self._home = home
        self._children = contextlib.ExitStack()

    def start(self) -> None:
        """Start everything; return when it takes tasks.

        Raises:
            LocalError: a program is missing, ended, or was not ready in time; with the end of its log.
        """
        with contextlib.ExitStack() as children:
            if self._home:
                children.enter_context(_only_user_of(self._home))
            self.llama = children.enter_context(
                LocalLlama(
                    model=self._serving.model,
                    projector=self._serving.projector,
                    port=self._llm_port,
                    slots=self._serving.slots,
                    context=self._serving.context,
                    directory=self._folder("llama.cpp"),
                )
            )
            self.redis = children.enter_context(
                LocalRedis(port=self._redis_port, directory=self._folder("redis"), persist=True)
            )
            self.redis.wait_ready()
            self.worker = self.gateway = None
            if self._gateway_port is not None:
                self.gateway = children.enter_context(
                    LocalGateway(
                        self.redis.url,
                        port=self._gateway_port,
                        env=self._gateway_env,
                        directory=self._folder("gateway"),
                    )
                )
            if self._with_worker:  # it starts while the model is being loaded
                self.worker = children.enter_context(
                    LocalWorker(
                        self.redis.url,
                        self.llama.url,
                        env=self._worker_env,
                        args=["--without-mingle"],  # there is nobody else to ask; it would wait a second
                        directory=self._folder("worker"),
                    )
                )
            self.llama.wait_ready()
            for child in (self.worker, self.gateway):
                if child:
                    child.wait_ready()
            self._children = children.pop_all()

    def stop(self) -> None:
        """Stop the worker and the gateway, then Redis, then llama.cpp."""
        self._children.close()

    def check(self) -> None:
        """Nothing, while everything runs.

        Raises:
            LocalError: naming the program that ended, with the end of its log.
        """
        for child in self.children:
            if not child.alive:
                raise child.failure(f"ended with status {child.process.returncode}")

    def watch(self, on_look: Callable[[], None]) -> None:
        """Stay until a program ends, or `on_look`, called twice a second, raises; errors as for `check`."""
        while True:
            self.check()
            on_look()
            time.sleep(_WATCH_S)

    @property
    def children(self) -> list[Child]:
        """The running programs."""
        return [child for child in (self.redis, self.llama, self.worker, self.gateway) if child]

    def _folder(self, name: str) -> Path | None:
        return self._home / name if self._home else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def _only_user_of(home: Path) -> Iterator[None]:
    """Two Redis servers in one folder would spoil its data."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LocalError(
                f"Another `kc-worker up` already runs in {home}. Stop it, or start in another folder."
            ) from None
        yield
