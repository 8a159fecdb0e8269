"""Cancel means cancel, at every stage and on every kind of server (fault 10)."""

import time
from collections.abc import Callable

import pytest

from tests.faults.checker import check
from tests.faults.ground import Ground
from tests.faults.scale import scaled

TIMES = scaled(4, 100)
KINDS = ["vllm", "llamacpp", "llama-cpp-python"]
#: A cancelled request must be closed within this.
CLOSED_WITHIN_S = 1.0
#: Longer than the test looks at a task that has been cancelled.
LONG_S = 30.0


def _before_the_first_token(ground: Ground) -> list[str]:
    ids = ground.submit(TIMES)
    ground.wait_in_flight(TIMES)
    return ids


def _in_mid_stream(ground: Ground) -> list[str]:
    ids = [
        one
        for _ in range(TIMES)
        for one in ground.submit(1, options={"stream": True}, words="a b c d e f " * 5)
    ]
    ground.wait_in_flight(TIMES)
    time.sleep(LONG_S / 30)
    return ids


def _at_any_moment(ground: Ground) -> list[str]:
    ids = ground.submit(TIMES)
    time.sleep(ground.random.uniform(0, 0.05))
    return ids


STAGES: dict[str, Callable[[Ground], list[str]]] = {
    "before the first token": _before_the_first_token,
    "in mid-stream": _in_mid_stream,
    "at any moment": _at_any_moment,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_cancelled_request_is_closed_within_a_second(ground: Ground, kind: str, stage: str) -> None:
    """10: cancel while it runs, 100 times: the server sees the disconnect within 1 s; REVOKED or SUCCESS."""
    if kind == "llama-cpp-python" and stage != "at any moment":
        _one_after_the_other(ground, stage)
        return
    ground.serve(kind, latency_s=LONG_S, slots=TIMES)
    ground.work()
    ids = STAGES[stage](ground)
    for number, one in enumerate(ids):
        ground.cancel(one, terminate=bool(number % 2))
    _all_are_closed(ground)


def _one_after_the_other(ground: Ground, stage: str) -> None:
    """llama-cpp-python has one request at a time: the others wait at the gate, and are cancelled there."""
    ground.serve("llama-cpp-python", latency_s=LONG_S)
    ground.work()
    ids = ground.submit(TIMES, options={"stream": stage == "in mid-stream"}, words="a b c d e f " * 5)
    while waiting := [one for one in ids if one not in ground.cancelled]:
        ground.wait("one runs", lambda: _running(ground))
        (running,) = _running(ground)
        ground.cancel(running)
        if len(waiting) > 2:
            ground.cancel(waiting[-1])  # the last in line
        ground.wait("it is closed", lambda: ground.runs()[running][-1].outcome != "running")  # noqa: B023
    _all_are_closed(ground)


def _running(ground: Ground) -> list[str]:
    """Tasks at the model server that are not cancelled."""
    return [
        one
        for one, runs in ground.runs().items()
        if runs[-1].outcome == "running" and one not in ground.cancelled
    ]


def _all_are_closed(ground: Ground) -> None:
    check(ground, expected=("REVOKED", "SUCCESS"))
    for one, cancelled_s in ground.cancelled.items():
        for run in ground.runs().get(one, []):
            assert run.outcome in {"disconnected", "answered"}
            assert run.ended_s is not None
            assert run.ended_s - max(cancelled_s, run.started_s) <= CLOSED_WITHIN_S


@pytest.mark.parametrize("where", ["in the queue", "at the gate", "delayed", "parked before a dead server"])
def test_a_task_cancelled_before_its_call_makes_none(ground: Ground, where: str) -> None:
    """10: cancel while it waits: no call, and REVOKED."""
    ground.serve(latency_s=2.0, slots=2)
    held = 2 if where == "in the queue" else 2 + TIMES
    ground.work(WORKER_CONCURRENCY=held, LLM_MAX_CONCURRENCY=2)
    if where == "parked before a dead server":
        ground.server.kill()
        ids = ground.submit(TIMES)
        time.sleep(0.5)
    elif where == "delayed":
        ids = ground.submit(TIMES, countdown=2)
        time.sleep(0.5)
    else:
        ground.submit(2)
        ground.wait_in_flight(2)
        ids = ground.submit(TIMES)
        time.sleep(0.2)
    for one in ids:
        ground.cancel(one, terminate=ground.random.random() < 0.5)
    revoked = dict.fromkeys(ids, "REVOKED")
    ground.wait("all are revoked", lambda: ground.outcomes(ids) == revoked, 10)
    if where == "parked before a dead server":
        ground.server.start()
    check(ground, expected=("REVOKED", "SUCCESS"))
    assert not set(ids) & set(ground.runs())


def test_a_cancelled_task_stays_cancelled_when_workers_and_redis_come_back(ground: Ground) -> None:
    """10: durable over worker and Redis restarts; with `kc-worker cancel`."""
    ground.serve(latency_s=0.2)
    ids = ground.submit(4)
    ground.command("cancel", ids[0])
    ground.redis.kill()
    ground.redis.start()
    ground.command("cancel", ids[1])
    ground.work(WORKER_LEASE_S=1).kill()
    ground.work(WORKER_LEASE_S=1)
    check(ground, expected=("REVOKED", "SUCCESS"))
    assert set(ground.outcomes(ids[:2]).values()) == {"REVOKED"}
    assert not set(ids[:2]) & set(ground.runs())


@pytest.mark.parametrize("moment_s", [0.0, 0.3])
def test_a_task_cancelled_as_its_worker_dies_is_not_run_again(ground: Ground, moment_s: float) -> None:
    """10: the worker that had it is killed in the same moment: nobody takes it up again."""
    ground.serve(latency_s=LONG_S)
    worker = ground.work(WORKER_LEASE_S=1)
    ids = ground.submit(TIMES)
    ground.wait_in_flight(TIMES)
    for one in ids:
        ground.command("cancel", one) if one == ids[0] else ground.cancel(one)
    time.sleep(moment_s)
    worker.kill()
    revoked = set(ground.outcomes(ids))
    assert ids[0] in revoked
    ground.server.kill()
    ground.server.latency_s = 0.1
    ground.server.start()
    ground.work(WORKER_LEASE_S=1)
    ground.wait("the leases have ended", lambda: not ground.redis.client.exists("kc:lease"))
    assert not [one for one in revoked if len(ground.runs()[one]) > 1]
