"""The model server dies, refuses, hangs, or answers half (fault 8)."""

import time
from typing import Any

import pytest

from tests.faults.checker import check
from tests.faults.ground import Ground
from tests.faults.scale import scaled

HELD = 10
TASKS = scaled(200, 2000)
#: Enough of them to be felt, few enough that the calls they cost stay within five in a hundred.
FEW = scaled(2, 40)
MOST_CALLS = int(1.05 * TASKS)

FAULTS: dict[str, dict[str, Any]] = {
    "answers 503": {"fault": "status", "status": 503, "for_s": scaled(3, 120)},
    "asks to come back later": {
        "fault": "status",
        "status": 429,
        "headers": {"Retry-After": "2"},
        "times": 3,
    },
    "hangs": {"fault": "hang", "times": 3},
    "is cut in mid-answer": {"fault": "half_body", "times": FEW},
    "hangs up": {"fault": "close", "times": FEW},
    "drips": {"fault": "drip", "pieces": 20, "seconds": 0.05, "times": FEW},
    "says too short a length": {"fault": "wrong_length", "bytes": -20, "times": FEW},
    "says too long a length": {"fault": "wrong_length", "bytes": 20, "times": FEW},
}


@pytest.mark.parametrize("kind", scaled(["vllm"], ["vllm", "llamacpp"]))
@pytest.mark.parametrize("fault", FAULTS)
def test_no_task_fails_because_the_model_server(ground: Ground, fault: str, kind: str) -> None:
    """8: no task fails because of it, no retry storm (calls ≤ 1.05 a task, and probes)."""
    ground.serve(kind, latency_s=0.05)
    ground.work(WORKER_CONCURRENCY=2 * HELD, LLM_MAX_CONCURRENCY=HELD, LLM_TIMEOUT=3)
    ground.submit(HELD)
    ground.wait_outcomes(HELD)
    ground.server.script(FAULTS[fault])
    ground.submit(TASKS - HELD)
    if fault == "hangs":  # asking again is right once the time for a request is over
        ground.may_run_again |= set(ground.submitted)
    ground.faults_may_answer = fault == "drips"
    found = check(ground, most_calls=MOST_CALLS, settle_s=scaled(60, 400))
    _was_felt(ground)
    print(
        f"{found.submitted} tasks, {found.calls} calls, {ground.server.process.seen()['total']} requests in all"
    )


def test_no_task_fails_because_a_stream_is_cut(ground: Ground) -> None:
    """8: cut mid-stream."""
    ground.serve(latency_s=0.05)
    ground.work(WORKER_CONCURRENCY=2 * HELD, LLM_MAX_CONCURRENCY=HELD)
    ground.submit(1)
    ground.wait_outcomes(1)
    ground.server.script({"fault": "close_mid_stream", "times": FEW})
    for _ in range(TASKS):
        ground.submit(1, options={"stream": True})
    check(ground, most_calls=MOST_CALLS, settle_s=scaled(60, 400))
    _was_felt(ground)


def test_a_killed_model_server_costs_few_calls_and_gets_its_work_back_slowly(ground: Ground) -> None:
    """8: kill -9: no task fails, no retry storm, ramp on return."""
    ground.serve(latency_s=0.2)
    ground.work(WORKER_CONCURRENCY=2 * HELD, LLM_MAX_CONCURRENCY=HELD)
    ground.submit(5 * HELD)
    ground.wait_in_flight(HELD)
    ground.server.kill()
    ground.submit(TASKS - 5 * HELD)
    time.sleep(scaled(1, 60))
    ground.server.start()
    ground.wait("work goes on", lambda: any(run.outcome == "answered" for run in _since_return(ground)))
    runs = sorted(_since_return(ground), key=lambda run: run.started_s)
    first_answer_s = min(run.ended_s for run in runs if run.ended_s is not None and run.outcome == "answered")
    at_once = sum(run.started_s < first_answer_s for run in runs)
    assert at_once <= HELD / 2, f"{at_once} requests at once for a server that just came back"
    check(ground, most_calls=MOST_CALLS, settle_s=scaled(60, 400))


def _was_felt(ground: Ground) -> None:
    outcomes = {run.outcome for run in ground.server.runs()}
    assert outcomes - {"answered"}, "nothing was asked while it went wrong: the scenario shows nothing"


def _since_return(ground: Ground) -> list[Any]:
    return [run for run in ground.server.runs() if run.started_s > ground.server.killed_at[-1]]
