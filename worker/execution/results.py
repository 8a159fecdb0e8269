"""Celery's Redis result store, without blocking the loop.

A task's result is one script call: store it, unless a SUCCESS is there already (Celery's own rule, which
costs it a second round trip), and publish it to whoever waits. While Redis is away the result is held and
tried again; the task stays in flight until it is stored.
"""

from typing import Any

from celery.backends.redis import RedisBackend, SentinelBackend
from celery.states import READY_STATES
from celery.utils.log import get_logger
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from worker.execution.bridge import can_sleep, off_loop, wait_for

logger = get_logger(__name__)

#: KEYS: the result's key. ARGV: value, seconds to live, 1 if it is final. The status is the first member that
#: Celery writes. Progress that was under way when the task ended (revoked, say) comes too late.
STORE = """
local status = string.match(redis.call('GETRANGE', KEYS[1], 0, 31), '^{"status": "(%u+)"')
if status == 'SUCCESS' then return 0 end
if ARGV[3] == '0' and (status == 'FAILURE' or status == 'REVOKED') then return 0 end
redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1])
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
"""


class _LoopFriendly:
    """The parts of the store that would wait for Redis on the loop's thread; mixed into Celery's backend."""

    _redis: Redis | None = None

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        if not can_sleep():
            return super()._store_result(  # type: ignore[misc]
                task_id, result, state, traceback=traceback, request=request, **kwargs
            )
        meta = self._get_result_meta(  # type: ignore[attr-defined]
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = task_id
        key = self.get_key_for_task(task_id)  # type: ignore[attr-defined]
        value, ttl_s = self.encode(meta), int(self.expires)  # type: ignore[attr-defined]
        wait_for(self._store(key, [value, ttl_s, int(state in READY_STATES)]))
        return result

    def on_chord_part_return(self, *args: Any, **kwargs: Any) -> Any:
        """Count a finished part of a chord, and send its callback after the last one."""
        return off_loop(super().on_chord_part_return, *args, **kwargs)  # type: ignore[misc]

    async def _store(self, key: bytes, arguments: list[str | int]) -> None:
        """Store and publish one result, for as long as it takes."""
        if self._redis is None:
            self._redis = self.app.conf.redis_address.connect()  # type: ignore[attr-defined]
            self._script = self._redis.register_script(STORE)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((RedisConnectionError, RedisTimeoutError, OSError)),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            before_sleep=_say_that_it_is_held,
        ):
            with attempt:
                await self._script(keys=[key], args=arguments)


def _say_that_it_is_held(state: RetryCallState) -> None:
    if state.attempt_number in {1, 10} or state.attempt_number % 100 == 0:
        error = state.outcome.exception() if state.outcome else None
        logger.warning("A result is held until Redis is back (attempt %d): %s", state.attempt_number, error)


class ResultStore(_LoopFriendly, RedisBackend):
    """`result_backend` for redis://, rediss:// and unix://."""


class SentinelResultStore(_LoopFriendly, SentinelBackend):
    """`result_backend` for sentinel://."""
