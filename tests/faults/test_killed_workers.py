"""Workers die; what they held is done by others, and only that (faults 1, 2 and 12)."""

import signal
import time
from functools import partial

import pytest

from tests.faults.checker import check, dead_letters
from tests.faults.ground import Ground
from tests.faults.parts import FaultyWorker
from tests.faults.scale import scaled

LEASE_S = scaled(1.0, 5.0)

#: Where a worker is killed, between taking a message and being done with it. Two of a pair are a call's begin and end.
STEPS = {
    "before it takes": "worker.delivery.ledger:Ledger.reserve=kill-before@2",
    "having taken": "worker.delivery.ledger:Ledger.reserve=kill-after",
    "before the inbox": "worker.execution.inbox:Inbox.receive=kill-before",
    "in the inbox": "worker.execution.inbox:Inbox.receive=kill-after",
    "before Celery has it": "worker.execution.pool:TaskPool.on_apply=kill-before@3",
    "handed to Celery": "worker.execution.pool:TaskPool.on_apply=kill-after@3",
    "at its start": "worker.execution.pool:Job.start=kill-before@3",
    "before the call": "worker.backends.fleet:Fleet.chat=kill-before@3",
    "having the answer": "worker.backends.fleet:Fleet.chat=kill-after@3",
    "before it stores": "worker.delivery.ledger:_Convoy._send=kill-before",
    "having stored": "worker.delivery.ledger:_Convoy._send=kill-after",
    "before it acknowledges": "worker.delivery.ledger:Ledger.acknowledge=kill-before",
    "having acknowledged": "worker.delivery.ledger:Ledger.acknowledge=kill-after",
}
IN_SHORT = ("having taken", "handed to Celery", "having the answer", "having stored")


def test_workers_killed_with_all_hands_lose_nothing(ground: Ground) -> None:
    """1: kill -9 a worker with 500 in flight, 50 times: 0 lost, 0 twice, re-run only what a dead worker had."""
    held, kills = scaled(40, 500), scaled(3, 50)
    ground.serve(latency_s=scaled(1.0, 4.0), slots=3 * held, keep=10)
    # Who is killed with all hands time and again kills by chance: nobody is to be suspected of that here.
    settings = {"WORKER_LEASE_S": LEASE_S, "TASK_MAX_DELIVERIES": 100}
    settings |= {"WORKER_CONCURRENCY": held, "LLM_MAX_CONCURRENCY": held}
    crew = [ground.work(ready=False, **settings) for _ in range(2)]
    for number in range(kills):
        for worker in crew:
            worker.wait_ready()
        ground.submit(2 * held)
        victim = ground.random.choice(crew)
        ground.wait(f"{victim.label} is full", partial(_is_full, ground, victim, held), 120)
        print(
            f"{time.monotonic() - ground.started_s:.0f} s: kill {number + 1}, {ground.in_flight()} in flight"
        )
        victim.kill()
        crew.remove(victim)
        crew.append(ground.work(ready=False, **settings))
    verdict = check(ground, settle_s=scaled(60, 600))
    print(f"{verdict.submitted} tasks, {verdict.calls} calls, {verdict.again} tasks called more than once")
    assert verdict.again, "no worker was killed while it worked: the scenario shows nothing"


@pytest.mark.parametrize("step", [step for step in STEPS if scaled(step in IN_SHORT, True)])
def test_a_worker_killed_at_any_step_loses_nothing(ground: Ground, step: str) -> None:
    """2: kill -9 at every step between taking a message and storing its result: 0 lost."""
    ground.serve(latency_s=0.1)
    ids = ground.submit(scaled(10, 100))
    victim = ground.work(ready=False, inject=STEPS[step], WORKER_LEASE_S=LEASE_S, WORKER_CONCURRENCY=8)
    rescuer = ground.work(ready=False, WORKER_LEASE_S=LEASE_S)
    rescuer.signal(signal.SIGSTOP)
    victim.wait_end(60)
    assert victim.process.returncode == -signal.SIGKILL, victim.log()
    rescuer.signal(signal.SIGCONT)
    check(ground, settle_s=60)
    assert len(ids) == len(ground.outcomes())


def test_a_task_that_kills_every_worker_ends_as_a_dead_letter_and_can_be_replayed(ground: Ground) -> None:
    """12: dead-lettered after N; the others unaffected; replayable."""
    deliveries, others = scaled(2, 5), scaled(20, 200)
    ground.serve(latency_s=0.2)
    (poison,) = ground.submit(words="poison")
    ground.server.script({"fault": "hang", "times": -1, "request_id": poison})
    settings = {"WORKER_LEASE_S": LEASE_S, "TASK_MAX_DELIVERIES": deliveries, "WORKER_CONCURRENCY": 8}
    for death in range(deliveries):
        victim = ground.work(**settings)
        ground.submit(others)
        ground.wait("the poison is in flight", partial(_running_at, ground, poison, victim), 60)
        victim.kill()
        assert ground.outcomes([poison]) == {}, f"ended after {death + 1} deaths"
    ground.work(**settings)
    ground.wait("the poison is a dead letter", lambda: dead_letters(ground) == {poison}, 60)
    ground.wait_outcomes(deliveries * others + 1)
    outcomes = ground.outcomes()
    assert outcomes.pop(poison) == "FAILURE"
    assert set(outcomes.values()) == {"SUCCESS"}
    assert len(ground.runs()[poison]) == deliveries
    ground.server.clear()
    ground.announcements.outcomes.pop(poison)
    ground.command("dlq", "replay", poison)
    ground.command("dlq", "replay", poison, fails=True)  # there is nothing to replay any more
    ground.wait("the poison succeeds", lambda: ground.outcomes([poison]).get(poison) == "SUCCESS")
    check(ground)


def _running_at(ground: Ground, task_id: str, worker: FaultyWorker) -> bool:
    runs = ground.runs().get(task_id, [])
    return bool(runs) and runs[-1].outcome == "running" and runs[-1].worker == worker.label


def _is_full(ground: Ground, worker: FaultyWorker, held: int) -> bool:
    return ground.in_flight(worker) >= 0.9 * held
