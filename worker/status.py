"""What is reachable from here: Redis, its queues, the workers, the model servers."""

import asyncio
import copy
import time
from dataclasses import dataclass, field

from worker.backends.base import CallContext, Capabilities, State
from worker.errors import LocalError, TaskError
from worker.producer import Producer
from worker.settings import Settings
from worker.wiring import build_backend

_SERVER_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class RedisStatus:
    """The broker.

    Attributes:
        url: where it is, without password.
        version: its version; "" when it does not answer.
        error: why it does not answer; "" when it does.
        queues: tasks waiting, by queue.
        workers: names of the workers that answered.
    """

    url: str
    version: str = ""
    error: str = ""
    queues: dict[str, int] = field(default_factory=dict)
    workers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One model server.

    Attributes:
        url: where it is.
        state: "ready", "loading" or "down".
        reason: why it is not ready.
        capabilities: what it can do; None when it is not ready.
    """

    url: str
    state: str
    reason: str
    capabilities: Capabilities | None


@dataclass(frozen=True, slots=True)
class Status:
    """Everything, and what is missing in words."""

    redis: RedisStatus
    servers: list[ServerStatus]

    @property
    def problems(self) -> list[str]:
        """What keeps a task from being done now; empty: nothing."""
        found = []
        if self.redis.error:
            found.append(self.redis.error)
        elif not self.redis.workers:
            found.append("No worker answers. Start one with `kc-worker worker`.")
        if not any(server.state == State.READY for server in self.servers):
            found += [f"{server.url} is {server.state}: {server.reason}" for server in self.servers]
        return found


def look(chosen: Settings) -> Status:
    """Ask everything these settings name; takes a few seconds at most."""
    return Status(redis=_redis(chosen), servers=asyncio.run(_servers(chosen)))


def _redis(chosen: Settings) -> RedisStatus:
    address = chosen.redis.address
    with Producer(address) as producer:
        try:
            version = producer.redis_version()
            queues = producer.queue_lengths()
            return RedisStatus(address.shown, version, "", queues, producer.workers())
        except LocalError as error:
            return RedisStatus(address.shown, error=str(error))


async def _servers(chosen: Settings) -> list[ServerStatus]:
    return list(await asyncio.gather(*(_server(chosen, url) for url in chosen.backend.llm_server_url)))


async def _server(chosen: Settings, url: str) -> ServerStatus:
    only_this = copy.copy(chosen)
    only_this.backend = chosen.backend.model_copy(update={"llm_server_url": (url,)})
    backend = build_backend(only_this)
    try:
        async with asyncio.timeout(_SERVER_TIMEOUT_S):
            (readiness,) = await backend.probe()
            if readiness.state is not State.READY:
                return ServerStatus(url, str(readiness.state), readiness.reason, None)
            context = CallContext(deadline=time.monotonic() + _SERVER_TIMEOUT_S)
            return ServerStatus(url, str(readiness.state), "", await backend.capabilities(context))
    except (TimeoutError, TaskError) as error:
        reason = str(error) or f"no answer within {_SERVER_TIMEOUT_S:g} s"
        return ServerStatus(url, str(State.DOWN), reason, None)
    finally:
        await backend.aclose()
