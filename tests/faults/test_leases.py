"""Leases end, or do not, when they should: whatever a worker's clock, its settings and its mood (faults 9, 13 and 14)."""

import time

import pytest

from tests.faults.checker import check
from tests.faults.ground import Ground
from tests.faults.scale import scaled

LEASE_S = scaled(1.0, 5.0)
RENEW = "worker.delivery.ledger:Ledger.renew"


def test_a_task_longer_than_five_leases_runs_once(ground: Ground) -> None:
    """9: a task longer than 5 leases: exactly one execution."""
    ground.serve(latency_s=5.5 * LEASE_S)
    for _ in range(2):
        ground.work(WORKER_LEASE_S=LEASE_S)
    ground.submit(10)
    assert check(ground, settle_s=60, most_calls=10).calls == 10


def test_a_worker_that_stopped_renewing_is_taken_over_once_and_its_late_answer_refused(
    ground: Ground,
) -> None:
    """9: with its renewer frozen: one takeover, the late answer refused."""
    ground.serve(latency_s=5 * LEASE_S)
    # It holds one, so that it cannot take over from itself.
    frozen = ground.work(inject=f"{RENEW}=freeze", WORKER_LEASE_S=LEASE_S, WORKER_CONCURRENCY=1)
    (task_id,) = ground.submit()
    ground.wait_in_flight(1)
    ground.may_run_again.add(task_id)
    other = ground.work(WORKER_LEASE_S=LEASE_S)
    check(ground, settle_s=60)
    ground.wait("the late answer is refused", lambda: f"Refused SUCCESS of task {task_id}" in frozen.log())
    runs = ground.runs()[task_id]
    assert [run.worker for run in runs] == [frozen.label, other.label]
    assert ground.announcements.outcomes[task_id] == ["SUCCESS"]


def test_a_worker_that_takes_over_from_itself_ends_its_first_run(ground: Ground) -> None:
    """9: it renewed too late, and got its own tasks again before it knew: they are run, and nothing is stuck."""
    ground.serve(latency_s=7)
    ground.work(inject=f"{RENEW}=late@4", WORKER_LEASE_S=2)
    ids = ground.submit(8)
    ground.may_run_again |= set(ids)
    check(ground, settle_s=30)
    runs = ground.runs()
    for one in ids:
        *first, last = [run.outcome for run in runs[one]]
        assert set(first) == {"disconnected"}
        assert last == "answered"


@pytest.mark.parametrize("offset_s", scaled([-600], [600, -600]))
def test_a_worker_whose_clock_is_wrong_doubles_nothing(ground: Ground, offset_s: float) -> None:
    """13: clock of one worker off by ±10 min: nothing doubled, leases sane."""
    ground.serve(latency_s=3 * LEASE_S)
    for offset in (0, offset_s):
        ground.work(clock_offset_s=offset, WORKER_LEASE_S=LEASE_S, WORKER_CONCURRENCY=8)
    ground.submit(16)
    now_before_s = time.time()
    ground.submit(4, countdown=LEASE_S)
    ground.wait_in_flight(16)
    ends_ms = [score for _, score in ground.redis.client.zrange("kc:lease", 0, -1, withscores=True)]  # type: ignore[union-attr]
    assert ends_ms
    assert all(now_before_s < ends / 1000 <= time.time() + LEASE_S + 0.1 for ends in ends_ms)
    assert check(ground, settle_s=60).calls == 20
    workers = {run.worker for runs in ground.runs().values() for run in runs}
    assert len(workers) == 2, "one of them did nothing: the scenario shows nothing"
    for task_id, entry in list(ground.submitted.items())[16:]:
        assert ground.runs()[task_id][0].started_s >= entry.at_s + LEASE_S - 0.1, "a delayed task came early"


def test_workers_of_different_leases_double_nothing(ground: Ground) -> None:
    """14: two workers of different versions of the settings (lease 60 and 120): no duplicate."""
    short_s, long_s = scaled((1.0, 2.0), (60.0, 120.0))
    ground.serve(latency_s=scaled(3 * long_s, 1.5 * long_s))
    for lease_s in (short_s, long_s):
        ground.work(WORKER_LEASE_S=lease_s, WORKER_CONCURRENCY=8, LLM_TIMEOUT=600)
    ground.submit(16)
    assert check(ground, settle_s=scaled(60, 400)).calls == 16
