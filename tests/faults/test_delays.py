"""Long delays live in Redis, not in worker memory (fault 15)."""

import time

from tests.faults.checker import check
from tests.faults.ground import Ground
from tests.faults.scale import scaled
from worker.backends.fleet import ATTEMPTS

MB = 1_000_000
DELAYED, DELAY_S = scaled(500, 100_000), scaled(6.0, 300.0)
PUT_OFF = scaled(5, 30)
#: Of the finished ones the worker keeps what Celery always keeps; it must not keep the delayed ones.
FLAT_BYTES = 20 * MB


def test_delayed_tasks_cost_a_worker_no_memory_and_each_fires_once(ground: Ground) -> None:
    """15: 100,000 delayed: worker memory flat, each fires once and none early."""
    ground.serve(latency_s=0.0, keep=10)
    worker = ground.work(WORKER_CONCURRENCY=64)
    ground.submit(100)
    ground.wait_outcomes(100)
    before = worker.usage()["memory"]
    due_s = time.monotonic() + DELAY_S
    ids = [
        one for _ in range(DELAYED) for one in ground.submit(1, countdown=max(0.0, due_s - time.monotonic()))
    ]
    ground.wait("all wait", lambda: ground.redis.client.llen("default") == 0, 120)
    assert ground.redis.client.zcard("kc:delayed") == DELAYED
    waiting = worker.usage()["memory"]
    assert waiting - before < FLAT_BYTES
    check(ground, settle_s=DELAY_S + scaled(60, 900), most_calls=DELAYED + 100)
    after = worker.usage()["memory"]
    print(f"memory: {before / MB:.0f} MB, all delayed {waiting / MB:.0f} MB, all done {after / MB:.0f} MB")
    assert after - before < 2 * FLAT_BYTES
    runs = ground.runs()
    assert not [one for one in ids if runs[one][0].started_s < due_s - 0.1], "a delayed task came early"


def test_tasks_that_are_put_off_wait_in_redis_and_each_succeeds_once(ground: Ground) -> None:
    """15: our own retries: a task that the server fails for waits in Redis, the others go on; then it is done once."""
    ground.serve(latency_s=0.02, keep=10)
    worker = ground.work(WORKER_CONCURRENCY=64, LLM_MAX_CONCURRENCY=64)
    ground.submit(100)
    ground.wait_outcomes(100)
    before = worker.usage()["memory"]
    ids: list[str] = []
    most_waiting = 0

    def each_has_its_outcome() -> bool:
        nonlocal most_waiting
        most_waiting = max(most_waiting, int(ground.redis.client.zcard("kc:delayed")))  # type: ignore[arg-type]
        stored = [ground.redis.client.get(f"celery-task-meta-{one}") or b"" for one in ids]
        return all(b'"SUCCESS"' in one for one in stored)  # type: ignore[operator]

    for number in range(PUT_OFF):
        ids.append(one := f"put-off-{number}-{ground.seed}")
        ground.server.script({"fault": "status", "status": 500, "times": ATTEMPTS, "request_id": one})
        ground.submit(1, task_id=one)
        ground.submit(40)  # for which the server works: it is not put aside for a few
        time.sleep(0.25)
    ground.wait("each that was put off has its outcome", each_has_its_outcome, scaled(90, 600))
    check(ground, settle_s=scaled(60, 300), most_calls=len(ground.submitted) + ATTEMPTS * PUT_OFF)
    runs = ground.runs()
    assert [[run.outcome for run in runs[one]] for one in ids] == [
        ["faulted"] * ATTEMPTS + ["answered"]
    ] * PUT_OFF
    print(f"{most_waiting} were put off at once")
    assert most_waiting
    assert worker.usage()["memory"] - before < FLAT_BYTES
