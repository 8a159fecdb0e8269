"""Runs Celery's own program with faults built in: `python inject.py -A worker worker …`.

    KC_INJECT="worker.delivery.ledger:Ledger.store=kill-after@3;worker.delivery.ledger:Ledger.renew=freeze"

Each part is `module:attribute=action`, with `@n` for the n-th call (default: the first) and `?text` to count only
calls whose arguments show that text. Actions:

    kill-before   kill -9 of this process as the function is called
    kill-after    … as it returns, or as its coroutine is done
    freeze        that call and all later ones never come back
    late          that call, a coroutine's, begins four seconds late
    stop-before   SIGSTOP: the whole process stands still until it gets SIGCONT

    KC_CLOCK_OFFSET_S=600      this process's wall clock is ahead by so much; negative: behind
"""

import asyncio
import datetime as dt
import functools
import importlib
import inspect
import os
import re
import signal
import sys
import threading
import time
from typing import Any

_PART = re.compile(
    r"([\w.]+):([\w.]+)=(kill-before|kill-after|freeze|late|stop-before)(?:@(\d+))?(?:\?(.+))?"
)


def inject(part: str) -> None:
    """Wrap the function that `part` names."""
    found = _PART.fullmatch(part.strip())
    if found is None:
        raise SystemExit(f"KC_INJECT: {part!r} is not module:attribute=action@n?text")
    module, path, action, at, text = found.groups()
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = inspect.getattr_static(owner, name)
    kind = type(original) if isinstance(original, staticmethod | classmethod) else None
    wrapped = _wrap(original.__func__ if kind else original, action, int(at or 1), text or "")
    setattr(owner, name, kind(wrapped) if kind else wrapped)


class _Injected:
    """One function's fault: counts its calls and acts around the one that is due."""

    def __init__(self, action: str, at: int, text: str) -> None:
        self.action, self._at, self._text = action, at, text
        self._calls = 0
        self._lock = threading.Lock()

    def due(self, args: Any, kwargs: Any) -> bool:
        """Whether this call is the one."""
        if self._text and self._text not in f"{args!r}{kwargs!r}":
            return False
        with self._lock:
            self._calls += 1
            return self._calls >= self._at if self.action == "freeze" else self._calls == self._at

    def act(self, moment: str) -> None:
        """Kill or stop this process, if that is what happens now."""
        if self.action == f"kill-{moment}":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.action == f"stop-{moment}":
            os.kill(os.getpid(), signal.SIGSTOP)


def _wrap(function: Any, action: str, at: int, text: str) -> Any:
    injected = _Injected(action, at, text)

    @functools.wraps(function)
    async def asynchronous(*args: Any, **kwargs: Any) -> Any:
        if not injected.due(args, kwargs):
            return await function(*args, **kwargs)
        if action == "freeze":
            await asyncio.Event().wait()
        if action == "late":
            await asyncio.sleep(4)
        injected.act("before")
        result = await function(*args, **kwargs)
        injected.act("after")
        return result

    @functools.wraps(function)
    def synchronous(*args: Any, **kwargs: Any) -> Any:
        if not injected.due(args, kwargs):
            return function(*args, **kwargs)
        if action == "freeze":
            threading.Event().wait()
        injected.act("before")
        result = function(*args, **kwargs)
        injected.act("after")
        return result

    return asynchronous if inspect.iscoroutinefunction(function) else synchronous


def offset_clock(seconds: float) -> None:
    """Put this process's wall clock forward; must come before others import what reads it."""
    real_time, real_datetime, real_date = time.time, dt.datetime, dt.date

    class OffsetDatetime(real_datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> "OffsetDatetime":
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> "OffsetDatetime":
            return cls.now(dt.UTC).replace(tzinfo=None)

        def __reduce_ex__(self, protocol: Any) -> Any:
            return real_datetime.combine(self.date(), self.timetz()).__reduce_ex__(protocol)

    class OffsetDate(real_date):
        @classmethod
        def today(cls) -> "OffsetDate":
            return cls.fromtimestamp(time.time())

    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: round((real_time() + seconds) * 1e9)
    dt.datetime, dt.date = OffsetDatetime, OffsetDate  # type: ignore[misc]


if __name__ == "__main__":
    sys.path[0] = ""  # as with `python -m celery`
    if offset_s := float(os.environ.get("KC_CLOCK_OFFSET_S", "0")):
        offset_clock(offset_s)
    for part in filter(None, os.environ.get("KC_INJECT", "").split(";")):
        inject(part)
    from celery.__main__ import main

    main()
