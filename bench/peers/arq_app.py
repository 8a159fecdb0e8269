"""arq: `arq bench.peers.arq_app.WorkerSettings`."""

import asyncio
import os
from typing import Any, ClassVar

import uvloop
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings

from bench.peers import model
from bench.peers.producing import produce

# arq brings no loop of its own choice; the faster one is the fairer one.
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

#: How often worker and producer look, seconds; half a second is arq's default for both.
POLL_DELAY_S = float(os.environ.get("POLL_DELAY_S", "0.5"))


async def chat(ctx: dict[str, Any], **request: Any) -> dict[str, Any]:
    """The task."""
    return await model.chat(ctx["session"], request)


async def startup(ctx: dict[str, Any]) -> None:
    """One client for all tasks."""
    ctx["session"] = model.session()


async def shutdown(ctx: dict[str, Any]) -> None:
    """Close it."""
    await ctx["session"].close()


class WorkerSettings:
    """What the `arq` command reads."""

    functions: ClassVar = [chat]
    on_startup = startup
    on_shutdown = shutdown
    redis_settings = RedisSettings.from_dsn(model.REDIS_URL)
    max_jobs = model.IN_FLIGHT
    poll_delay = POLL_DELAY_S


_pool: list[ArqRedis] = []


async def send() -> Any:
    """Enqueue one."""
    if not _pool:
        _pool.append(await create_pool(WorkerSettings.redis_settings))
    return await _pool[0].enqueue_job("chat", **model.REQUEST)


async def ask() -> object:
    """Enqueue one and wait."""
    return await (await send()).result(poll_delay=POLL_DELAY_S)


if __name__ == "__main__":
    produce(send, ask)
