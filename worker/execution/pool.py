"""A Celery pool that holds hundreds of tasks in flight on one asyncio loop.

Celery's main thread consumes messages and acknowledges them; the loop's thread runs the tasks, each as a
greenlet (see `bridge`). Reports travel back in one FIFO that only the main thread empties, because
`celery.worker.state` and the broker channel belong to it.

Soft and hard time limits, `revoke(terminate=True)` and shutdown are all the same act: the coroutine the task
waits for is cancelled, which closes its connection to the model server. They differ in what is reported:

    soft limit   `SoftTimeLimitExceeded` is raised in the task, which may clean up; else FAILURE
    hard limit   the task ends here and now; FAILURE with `TimeLimitExceeded`
    terminate    the task ends here and now; reported as `Terminated`: REVOKED, or redelivered at shutdown
"""

import asyncio
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded, Terminated
from celery.concurrency.base import BasePool
from celery.signals import worker_shutting_down
from celery.utils.log import get_logger
from celery.worker import state as worker_state
from kombu.asynchronous import Hub

from worker.execution.bridge import drive, process_loop

logger = get_logger(__name__)

#: Seconds a cancelled task has to unwind before shutdown goes on without it.
STUCK_AFTER_S = 10.0

#: What ends within so many seconds is reported together: a turn of Celery's loop costs more than a report,
#: and the result is stored and published by then.
REPORT_DELAY_S = 0.005

#: Seconds between looks at what is left, at shutdown.
LOOK_S = 0.02

_EXPLICIT_PREFORK = re.compile(r"(^| )(-P ?|--pool[ =])prefork( |$)")

Report = Callable[..., None]


def chosen_pool(arguments: Sequence[str]) -> str:
    """The `worker_pool` setting for a command line: this module's pool, or prefork where it asks for that.

    Celery takes an explicit `-P prefork` for its default and would replace it by the configured pool
    (`WorkersPool` in celery/bin/worker.py). Other pools named by `-P` override the setting by themselves.
    """
    return "prefork" if _EXPLICIT_PREFORK.search(" ".join(arguments)) else f"{__name__}:TaskPool"


class _EndedFromOutside(BaseException):
    """Unwinds a task that is not to have a result; Celery's tracer lets a BaseException pass."""


class Job:
    """One task in flight; what Celery holds on to while it runs.

    Args:
        loop: the loop it runs on; every method but `terminate` and `drop` belongs to that loop's thread.
        report_terminated: tells Celery that the task was terminated, given the reason.
    """

    __slots__ = (
        "__weakref__", "_ended_at", "_limits", "_loop", "_pending", "_task",
        "report_ended", "report_terminated",
    )  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, report_terminated: Callable[[Terminated], None]
    ) -> None:
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._pending: BaseException | None = None
        self._limits: list[asyncio.TimerHandle] = []
        self.report_terminated = report_terminated
        self.report_ended: Callable[[], None] | None = None
        self._ended_at = math.inf

    @property
    def is_stuck(self) -> bool:
        """Whether it was ended long ago and has not unwound: it ignores cancellation."""
        return time.monotonic() - self._ended_at > STUCK_AFTER_S

    def terminate(self, signal: int | str | None = None) -> None:
        """Cancel the task and report it as terminated; Celery calls this."""
        report = partial(self.report_terminated, Terminated(signal))
        self._loop.call_soon_threadsafe(self.end, report)

    def drop(self) -> None:
        """Cancel the task and report nothing: its message stays unacknowledged with the broker."""
        self._loop.call_soon_threadsafe(self.end, lambda: None)

    def start(self, task: asyncio.Task[None] | None) -> None:
        """The task has begun to run."""
        self._task = task

    def limit(self, seconds: float | None, action: Callable[[float], None]) -> None:
        """Call `action` after so many seconds, where there is a limit."""
        if seconds:
            self._limits.append(self._loop.call_later(seconds, action, seconds))

    def done(self) -> None:
        """Nothing more can happen to this job."""
        for limit in self._limits:
            limit.cancel()

    def end(self, report: Callable[[], None]) -> None:
        """End the task without a result; the first reason to end is the one reported."""
        if self.report_ended is None:
            self.report_ended = report
            self._ended_at = time.monotonic()
            self._raise_in_task(_EndedFromOutside())

    def interrupt(self, reason: Exception) -> None:
        """Cancel what the task waits for and raise `reason` in its place."""
        if self.report_ended is None:
            self._raise_in_task(reason)

    def take_pending(self, _error: BaseException | None = None) -> BaseException | None:
        """What is to be raised in the task now, once."""
        pending, self._pending = self._pending, None
        if pending is not None and self._task is not None:
            self._task.uncancel()
        return pending

    def _raise_in_task(self, reason: BaseException) -> None:
        self._pending = reason
        if self._task is not None:
            self._task.cancel()


class TaskPool(BasePool):
    """`worker_pool` for asyncio work; see the module's docstring."""

    signal_safe = False
    body_can_be_buffer = True

    def on_start(self) -> None:
        """Start the loop."""
        self._loop = process_loop()
        self._hub: Hub | None = None
        self._jobs: set[Job] = set()
        self._reports: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._drain_is_due = False
        #: Tasks for the thread of the loop to start, several at once: waking it is dear.
        self._due: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        self._start_is_due = False
        self._signals = 0
        worker_shutting_down.connect(self._count_signal)

    def register_with_event_loop(self, loop: Hub) -> None:
        """Celery's hub: reports are delivered by it. Called again after every reconnect."""
        self._hub = loop
        loop.call_soon(self._drain)

    def on_apply(  # type: ignore[override]  # Celery passes these by name
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        callback: Report,
        accept_callback: Report,
        error_callback: Report,
        timeout_callback: Report,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> Job:
        """Run a traced task; the callbacks are those of `celery.worker.request.Request`."""
        job = Job(self._loop, partial(self._report_failure, error_callback))
        self._jobs.add(job)

        def on_soft_limit(seconds: float) -> None:
            self._report(timeout_callback, True, seconds)
            job.interrupt(SoftTimeLimitExceeded(seconds))

        def on_hard_limit(seconds: float) -> None:
            job.end(partial(self._report, timeout_callback, False, seconds))

        async def run() -> None:
            job.start(asyncio.current_task())
            self._report(accept_callback, os.getpid(), time.monotonic())
            job.limit(soft_timeout or self.options.get("soft_timeout"), on_soft_limit)
            job.limit(timeout or self.options.get("timeout"), on_hard_limit)
            try:
                if (ended := job.take_pending()) is not None:
                    raise ended  # before it began
                result = await drive(partial(target, *args, **(kwargs or {})), job.take_pending)
            except _EndedFromOutside:
                if job.report_ended is not None:
                    job.report_ended()
            except BaseException as error:  # noqa: BLE001 - Celery decides what it means
                self._report_failure(error_callback, error)
            else:
                self._report(callback, result)
            finally:
                job.done()
                self._jobs.discard(job)

        self._due.append(run)
        if not self._start_is_due:
            self._start_is_due = True
            self._loop.call_soon_threadsafe(self._start_due)
        return job

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Nothing here: Celery also calls `Job.terminate`, which names one task and not the process."""

    def on_stop(self) -> None:
        """Deliver what running tasks report until none is left, or the grace period is over.

        What still runs then is cancelled and reports nothing: its message goes back to its queue. A second
        signal ends the grace period, and at cold shutdown there is none; that calls this inside a signal
        handler. A task that ignores its cancellation is left behind.
        """
        grace_ends = time.monotonic() + self.app.conf.shutdown_grace_s
        while any(not job.is_stuck for job in tuple(self._jobs)) or not self._reports.empty():
            hurry = worker_state.should_terminate is not None or self._signals > 1
            if hurry or time.monotonic() > grace_ends:
                for job in tuple(self._jobs):
                    job.drop()
            try:
                self._deliver(self._reports.get_nowait())
            except Empty:
                # Not a get with a timeout: interrupted by a signal whose handler takes longer than that,
                # it waits for ever (CPython 3.11 counts on with what is less than nothing).
                time.sleep(LOOK_S)

    def on_terminate(self) -> None:
        """End every task that is still there without a report: its message stays with the broker."""
        self._signals += 2
        self.on_stop()

    def _count_signal(self, **_: Any) -> None:
        self._signals += 1

    def _get_info(self) -> dict[str, Any]:
        info = super()._get_info()  # type: ignore[misc]  # missing in the stubs
        return {**info, "in-flight": len(self._jobs), "loop": type(self._loop).__module__}

    def _start_due(self) -> None:
        self._start_is_due = False
        while self._due:
            self._loop.create_task(self._due.popleft()())

    def _report_failure(self, error_callback: Report, error: BaseException) -> None:
        try:
            raise error
        except BaseException:  # noqa: BLE001 - ExceptionInfo reads the exception being handled
            self._report(error_callback, ExceptionInfo())

    def _report(self, report: Report, *args: Any) -> None:
        """Tell Celery something; called on the loop's thread."""
        self._reports.put(partial(report, *args))
        if self._hub is not None and not self._drain_is_due:
            self._drain_is_due = True
            self._loop.call_later(REPORT_DELAY_S, self._hub.call_soon, self._drain)

    def _drain(self) -> None:
        self._drain_is_due = False
        while True:
            try:
                report = self._reports.get_nowait()
            except Empty:
                return
            self._deliver(report)

    @staticmethod
    def _deliver(report: Callable[[], None]) -> None:
        try:
            report()
        except Exception:
            logger.exception("A task's outcome could not be reported to Celery")
