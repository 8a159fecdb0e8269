"""Celery's Redis result store, without blocking the loop and without a second outcome.

A task's state goes through one script (`lua/store.lua`): refused where the task has its outcome or another
delivery runs it, else stored and published to whoever waits. While Redis is away it is held and tried again;
the task stays in flight until it is stored.
"""

import os
from typing import Any

from celery.backends.redis import RedisBackend, SentinelBackend
from celery.states import FAILURE
from celery.utils.log import get_logger

from worker.delivery.ledger import Ledger, persist
from worker.execution.bridge import off_loop, wait_for
from worker.execution.inbox import DELIVERY

logger = get_logger(__name__)

_STALE = -1


class _LoopFriendly:
    """The parts of the store that would wait for Redis on the loop's thread; mixed into Celery's backend."""

    _ledger: tuple[int, Ledger] | None = None

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        value, ttl_s = self._encoded(task_id, result, state, traceback, request), int(self.expires)  # type: ignore[attr-defined]
        token = _token_of(request)
        if wait_for(persist(lambda: self.ledger.store(task_id, token, value, ttl_s))) == _STALE:
            logger.warning("Refused %s of task %s: another worker runs it by now", state, task_id)
        return result

    def on_chord_part_return(self, *args: Any, **kwargs: Any) -> Any:
        """Count a finished part of a chord, and send its callback after the last one."""
        return off_loop(super().on_chord_part_return, *args, **kwargs)  # type: ignore[misc]

    @property
    def ledger(self) -> Ledger:
        """For this process's loop."""
        pid = os.getpid()
        if self._ledger is None or self._ledger[0] != pid:
            self._ledger = pid, Ledger(self.app.conf.redis_address.connect())  # type: ignore[attr-defined]
        return self._ledger[1]

    def bury(self, error: Exception, request: Any) -> None:
        """Store the failure of a task and keep its message as a dead letter, both or neither.

        Args:
            error: how the task ends; its message is the reason.
            request: of the task.
        """
        encoded = self._encoded(request.id, self.prepare_exception(error), FAILURE, None, request)  # type: ignore[attr-defined]
        token, ttl_s = _token_of(request), int(self.expires)  # type: ignore[attr-defined]
        wait_for(persist(lambda: self.ledger.bury(token, str(error), encoded, ttl_s)))

    def _encoded(self, task_id: str, result: Any, state: str, traceback: str | None, request: Any) -> str:
        meta = self._get_result_meta(  # type: ignore[attr-defined]
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = task_id
        return str(self.encode(meta))  # type: ignore[attr-defined]


def _token_of(request: Any) -> str:
    """Of the delivery a request came by; "" where it came by none."""
    properties = getattr(request, "properties", None) or {}
    return str(properties.get(DELIVERY, {}).get("token", ""))


class ResultStore(_LoopFriendly, RedisBackend):
    """`result_backend` for redis://, rediss:// and unix://."""


class SentinelResultStore(_LoopFriendly, SentinelBackend):
    """`result_backend` for sentinel://."""
