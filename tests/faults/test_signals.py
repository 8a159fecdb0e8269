"""A worker is told to stop, in every way there is, while it works (fault 11)."""

import signal
import time

import pytest

from tests.faults.checker import check
from tests.faults.ground import Ground
from tests.faults.scale import scaled

HELD = scaled(20, 200)
GRACE_S = scaled(2.0, 10.0)
#: To unwind what runs, speak to Redis for the last time and end the interpreter.
LEAVE_S = 10.0

SIGNALS = {
    "SIGTERM": [signal.SIGTERM],
    "SIGQUIT": [signal.SIGQUIT],
    "SIGTERM twice": [signal.SIGTERM, signal.SIGTERM],
    "SIGINT twice": [signal.SIGINT, signal.SIGINT],
    "SIGINT": [signal.SIGINT],
    "SIGTERM, then SIGQUIT": [signal.SIGTERM, signal.SIGQUIT],
}


@pytest.mark.parametrize("how", list(SIGNALS)[: scaled(4, 6)])
def test_a_stopped_worker_hands_back_what_it_cannot_finish(ground: Ground, how: str) -> None:
    """11: under load: within grace; nothing lost; a second signal, and SIGQUIT, hand back at once."""
    ground.serve(latency_s=0.1)
    ground.server.script({"fault": "hang", "times": -1})
    at_once = how not in {"SIGTERM", "SIGINT"}
    grace_s = 60.0 if at_once else GRACE_S
    worker = ground.work(WORKER_CONCURRENCY=HELD, LLM_MAX_CONCURRENCY=HELD, WORKER_SHUTDOWN_GRACE_S=grace_s)
    ground.submit(2 * HELD)
    ground.wait_in_flight(HELD)
    for number in SIGNALS[how]:
        worker.signal(number)
        time.sleep(0.3)  # the signal handler of the first has to run; a person is not faster
    took_s = worker.wait_end(90)
    assert took_s < (LEAVE_S if at_once else GRACE_S + LEAVE_S), worker.log()[-2000:]
    ground.server.clear()
    ground.work()
    ground.wait_outcomes(2 * HELD, 20)  # sooner than a lease ends: they were handed back
    check(ground)


def test_a_stopped_worker_finishes_what_it_can(ground: Ground) -> None:
    """11: what ends within the grace period is done once."""
    ground.serve(latency_s=1.5)
    worker = ground.work(WORKER_CONCURRENCY=HELD, LLM_MAX_CONCURRENCY=HELD, WORKER_SHUTDOWN_GRACE_S=20)
    ground.submit(2 * HELD)
    ground.wait_in_flight(HELD)
    worker.signal(signal.SIGTERM)
    worker.wait_end(60)
    assert len(ground.outcomes()) == HELD
    ground.work()
    assert check(ground).calls == 2 * HELD
