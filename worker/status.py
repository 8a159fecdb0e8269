"""What is reachable from here and what there is to do: Redis, queues, workers, model servers."""

import asyncio
import copy
import time
from dataclasses import dataclass

from redis.asyncio import Redis

from worker.backends.base import CallContext, Capabilities, State
from worker.delivery import truth
from worker.delivery.asking import ask
from worker.delivery.truth import Truth
from worker.errors import LocalError, TaskError
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
        delivery: how much work there is and where; None when it does not answer.
        copies: messages that wait for the outcome of a task that is running already.
    """

    url: str
    version: str = ""
    error: str = ""
    delivery: Truth | None = None
    copies: int = 0


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
        elif self.redis.delivery and not self.redis.delivery.workers:
            found.append("There is no live worker. Start one with `kc-worker worker`.")
        if not any(server.state == State.READY for server in self.servers):
            found += [f"{server.url} is {server.state}: {server.reason}" for server in self.servers]
        return found


def look(chosen: Settings) -> Status:
    """Ask everything these settings name; takes a few seconds at most."""
    return Status(redis=_redis(chosen), servers=asyncio.run(_servers(chosen)))


def _redis(chosen: Settings) -> RedisStatus:
    address = chosen.redis.address

    async def found(client: Redis) -> RedisStatus:
        server = await client.info("server")
        version = str(server.get("valkey_version") or server["redis_version"])
        return RedisStatus(
            address.shown, version, "", await truth.look(client), await truth.copies_waiting(client)
        )

    try:
        return ask(address, found)
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
