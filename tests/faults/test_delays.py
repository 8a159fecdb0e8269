"""Long delays live in Redis, not in worker memory (fault 15)."""

import time

from tests.faults.checker import check
from tests.faults.ground import Ground
from tests.faults.scale import scaled

MB = 1_000_000


def test_delayed_tasks_cost_a_worker_no_memory_and_each_fires_once(ground: Ground) -> None:
    """15: 100,000 delayed: worker memory flat, each fires once."""
    count, delay_s = scaled(400, 100_000), scaled(8, 400)
    ground.serve(latency_s=0.0, keep=10)
    worker = ground.work(WORKER_CONCURRENCY=64)
    ground.submit(100)
    ground.wait_outcomes(100)
    before = worker.usage()["memory"]
    due_s = time.monotonic() + delay_s
    while len(ground.submitted) < count + 100:
        ground.submit(1, countdown=max(0.0, due_s - time.monotonic()))
    ground.wait("all wait", lambda: _waiting(ground) == 0, 120)
    assert ground.redis.client.zcard("kc:delayed") == count
    assert worker.usage()["memory"] - before < 20 * MB
    check(ground, settle_s=scaled(60, 1200), most_calls=count + 100)
    assert worker.usage()["memory"] - before < 40 * MB
    early = [
        one
        for one, runs in ground.runs().items()
        if ground.submitted[one].at_s < due_s - delay_s and runs[0].started_s < due_s - 0.1
    ]
    assert len(early) <= 100, "a delayed task came early"


def _waiting(ground: Ground) -> int:
    return int(ground.redis.client.llen("default"))  # type: ignore[arg-type]
