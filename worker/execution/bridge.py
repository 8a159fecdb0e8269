"""Between Celery, which is synchronous, and asyncio, where the work waits.

Celery's tracer is a plain function that calls the task and stores its result. Here it runs in a greenlet on
the loop's thread: where it must wait, `wait_for` hands a coroutine to the loop and the greenlet sleeps until
the coroutine is done. No thread is spent on a waiting task. The technique is that of SQLAlchemy's asyncio
extension (`sqlalchemy/util/concurrency.py`).

Under Celery's own pools (prefork, threads, solo) there is no such greenlet: `wait_for` then blocks the
calling thread while the same loop, one a process, does the work.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import greenlet
import uvloop

T = TypeVar("T")
P = ParamSpec("P")

#: Threads for blocking calls (file reads, Celery's own publishing), however many CPUs there are.
HELPER_THREADS = 8

#: Coroutines for which a thread is blocked, by the name they were given.
_named: dict[str, "asyncio.Future[Any]"] = {}
_loops: dict[int, asyncio.AbstractEventLoop] = {}
_loops_lock = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_loops_lock=threading.Lock()))


class _Sleeper(greenlet.greenlet):
    """A greenlet whose `wait_for` is served by the coroutine that drives it."""


def process_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process, on a thread of its own; started when first asked for."""
    pid = os.getpid()
    with _loops_lock:
        if pid not in _loops:
            loop = uvloop.new_event_loop()
            loop.set_default_executor(ThreadPoolExecutor(HELPER_THREADS, "kc-helper"))
            threading.Thread(target=loop.run_forever, name="kc-loop", daemon=True).start()
            _loops[pid] = loop
        return _loops[pid]


def can_sleep() -> bool:
    """Whether the caller runs in a greenlet that may wait without blocking the loop."""
    return isinstance(greenlet.getcurrent(), _Sleeper)


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop of this process and return its result, from synchronous code.

    Raises:
        RuntimeError: called on the loop's own thread outside of `run_sync`: it would wait for itself.
    """
    current = greenlet.getcurrent()
    if isinstance(current, _Sleeper) and current.parent is not None:
        result: T = current.parent.switch(work)
        return result
    loop = process_loop()
    if getattr(asyncio, "_get_running_loop")() is loop:  # noqa: B009
        work.close()
        raise RuntimeError("wait_for() on the loop's own thread; await the coroutine instead")
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()  # a time limit's signal, or the process is told to stop
        raise


async def cancellable(name: str, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; `cancel_named(name)` ends it, whatever thread waits for it."""
    task = asyncio.ensure_future(work)
    _named[name] = task
    try:
        return await task
    finally:
        del _named[name]


def cancel_named(name: str) -> bool:
    """Cancel what runs under a name, on the loop's thread; whether there was such a thing."""
    if (task := _named.get(name)) is None:
        return False
    task.cancel()
    return True


def off_loop(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a blocking function: on a helper thread where the caller shares the loop's, else at once."""
    if can_sleep():
        return wait_for(asyncio.to_thread(function, *args, **kwargs))
    return function(*args, **kwargs)


async def run_sync(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a synchronous function on the loop's thread; its calls to `wait_for` do not block the loop."""
    return await drive(lambda: function(*args, **kwargs))


async def drive(
    function: Callable[[], T],
    translate: Callable[[BaseException | None], BaseException | None] | None = None,
) -> T:
    """Run `function` in a greenlet, awaiting on its behalf whatever it gives to `wait_for`.

    Args:
        function: synchronous; whatever it raises is raised here.
        translate: asked after every wait with the exception it ended in (None: it went well); what it
            returns, if anything, is raised inside `function` instead of the wait's result.
    """
    sleeper = _Sleeper(function)
    awaited: Awaitable[Any] = sleeper.switch()
    while not sleeper.dead:
        try:
            value = await awaited
        except BaseException as error:  # noqa: BLE001 - it is raised again, inside the greenlet
            raised = (translate(error) if translate else None) or error
            awaited = sleeper.throw(raised)
        else:
            ending = translate(None) if translate else None
            awaited = sleeper.throw(ending) if ending else sleeper.switch(value)
    return awaited  # type: ignore[return-value]  # the last switch returns the function's own result
