"""Redis as programs use it that are no workers: one question, a few seconds, errors for people."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.delivery.deliveries import revoked
from worker.delivery.ledger import Ledger
from worker.errors import LocalError
from worker.redis_client import RedisAddress

T = TypeVar("T")


def ask(address: RedisAddress, question: Callable[[Redis], Awaitable[T]]) -> T:
    """The answer of `question`, which gets a client of its own.

    Raises:
        LocalError: Redis cannot be reached, or does not do it.
    """

    async def connected() -> T:
        async with address.connect_once() as client:
            return await question(client)

    try:
        return asyncio.run(connected())
    except (RedisError, OSError) as error:
        raise unusable(address, error) from error


def cancel_tasks(address: RedisAddress, ids: Sequence[str], result_ttl_s: int) -> dict[str, str]:
    """Cancel tasks wherever they are; they end REVOKED, whether a worker is there or not.

    Args:
        address: the broker.
        ids: of the tasks.
        result_ttl_s: seconds it is known that they were cancelled.

    Returns:
        By id: "running", "waiting" (queued, delayed, or not known here), or the outcome it had before.

    Raises:
        LocalError: Redis cannot be reached.
    """

    async def cancelled(client: Redis) -> dict[str, str]:
        return {task_id: await cancel_task(client, task_id, result_ttl_s) for task_id in ids}

    return ask(address, cancelled)


async def cancel_task(client: Redis, task_id: str, result_ttl_s: int) -> str:
    """Cancel one task, as `cancel_tasks` does; raises redis-py's errors."""
    outcome = revoked(task_id, datetime.now(UTC).isoformat())
    return await Ledger(client).cancel(task_id, outcome, result_ttl_s)


def unusable(address: RedisAddress, error: Exception) -> LocalError:
    """What is wrong with a Redis and what to do, in words."""
    reason = str(error).rstrip(".")
    return LocalError(
        f"Redis at {address.shown} cannot be used: {reason}. Start one with `kc-worker up` or "
        "`docker compose up -d`, or correct REDIS_URL."
    )
