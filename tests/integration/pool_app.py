"""A Celery app with tasks that do every awkward thing, on the pool under test."""

import asyncio
import os
import sys
import time

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from worker.delivery.deliveries import Deliveries, DeliveryOptions
from worker.execution.bridge import process_loop, run_sync, wait_for
from worker.execution.engine import equip
from worker.redis_client import RedisAddress

address = RedisAddress(os.environ["REDIS_URL"])
app = Celery("pool_app", set_as_current=True)
equip(
    app,
    address,
    sys.argv,
    lambda: Deliveries(address, process_loop(), DeliveryOptions()),
    concurrency=int(os.environ.get("CONCURRENCY", "64")),
    result_ttl_s=3600,
    grace_s=float(os.environ.get("GRACE", "10")),
)
app.conf.accept_content = ["json"]


def note(word: str) -> None:
    """Leave a trace that survives the worker."""
    with open(os.environ["NOTES"], "a") as notes:  # noqa: PTH123
        notes.write(word + "\n")


@app.task
def sleep(seconds: float, tag: str = "") -> str:
    async def body() -> str:
        note(f"start {tag}")
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            note(f"cancelled {tag}")
            raise
        note(f"end {tag}")
        return tag

    return wait_for(body())


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def fail(message: str) -> None:
    async def body() -> None:
        await asyncio.sleep(0)
        raise ValueError(message)

    wait_for(body())


@app.task
def cleans_up_at_soft_limit() -> str:
    try:
        wait_for(asyncio.sleep(30))
    except SoftTimeLimitExceeded:
        wait_for(asyncio.sleep(0.05))
        return "cleaned up"
    return "never interrupted"


@app.task
def ignores_cancellation(seconds: float) -> str:
    async def body() -> str:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                note("ignored")
        return "finished anyway"

    return wait_for(body())


@app.task(bind=True, max_retries=3)
def succeeds_at_the_third_try(self) -> int:
    wait_for(asyncio.sleep(0))
    if self.request.retries < 2:
        raise self.retry(countdown=0.1, exc=ValueError("not yet"))
    return self.request.retries


@app.task(bind=True)
def reports_progress(self) -> str:
    request = self.request_stack.top

    async def body() -> str:
        for done in range(1, 4):
            meta = {"done": done, "total": 3, "unit": "steps"}
            await run_sync(self.backend.store_result, request.id, meta, "PROGRESS", request=request)
            await asyncio.sleep(0.3)
        return "done"

    return wait_for(body())


@app.task
def exits() -> None:
    raise SystemExit(3)


@app.task(bind=True)
def replaced(self) -> None:
    raise self.replace(add.s(20, 22))
