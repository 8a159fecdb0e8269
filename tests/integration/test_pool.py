"""The pool does what Celery's users know, on one loop."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery, chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from celery.result import AsyncResult

from tests.conftest import close_producer
from worker.local.redis import LocalRedis

HERE = Path(__file__).parent
WAIT_S = 20


class PoolWorker:
    """A `celery -A pool_app worker` process and a producer for it."""

    def __init__(self, redis_url: str, tmp_path: Path, *args: str, **env: str) -> None:
        self.notes_file = tmp_path / "notes"
        self.notes_file.touch()
        self.log_file = tmp_path / "worker.log"
        self.app = Celery(broker=redis_url, backend=redis_url, set_as_current=False)
        self.app.conf.task_default_queue = "celery"
        command = [sys.executable, "-m", "celery", "-A", "pool_app", "worker", "--loglevel=info", *args]
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=HERE,
                env={**os.environ, "REDIS_URL": redis_url, "NOTES": str(self.notes_file), **env},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.until(lambda: " ready." in self.log())

    def send(self, task: str, *args: Any, **options: Any) -> AsyncResult:
        return self.app.send_task(f"pool_app.{task}", args=args, **options)

    def signature(self, task: str, *args: Any) -> Any:
        return self.app.signature(f"pool_app.{task}", args=args)

    def log(self) -> str:
        return self.log_file.read_text()

    def notes(self) -> list[str]:
        return self.notes_file.read_text().splitlines()

    def until(self, condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s} s; log:\n{self.log()[-3000:]}"
            assert self.process.poll() is None, f"the worker died:\n{self.log()[-3000:]}"
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        close_producer(self.app)


@pytest.fixture
def start(fresh_redis: LocalRedis, tmp_path: Path) -> Iterator[Callable[..., PoolWorker]]:
    workers: list[PoolWorker] = []

    def start(*args: str, **env: str) -> PoolWorker:
        workers.append(PoolWorker(fresh_redis.url, tmp_path, *args, **env))
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


@pytest.fixture
def worker(start: Callable[..., PoolWorker]) -> PoolWorker:
    return start()


def test_holds_as_many_tasks_in_flight_as_its_concurrency_on_a_handful_of_threads(worker: PoolWorker) -> None:
    results = [worker.send("sleep", 2, str(number)) for number in range(64)]
    worker.until(lambda: len(worker.notes()) >= 64)
    assert not any(result.ready() for result in results)
    assert psutil.Process(worker.process.pid).num_threads() < 20
    assert sorted(int(result.get(timeout=WAIT_S)) for result in results) == list(range(64))


def test_chains_groups_and_chords_work(worker: PoolWorker) -> None:
    add = worker.signature
    assert chain(add("add", 1, 2), add("add", 3), add("add", 4)).apply_async().get(timeout=WAIT_S) == 10
    assert group(add("add", i, i) for i in range(5)).apply_async().get(timeout=WAIT_S) == [0, 2, 4, 6, 8]
    header = [add("add", i, i) for i in range(5)]
    assert chord(header, add("total")).apply_async().get(timeout=WAIT_S) == 20


def test_a_task_can_be_replaced_by_another(worker: PoolWorker) -> None:
    assert worker.send("replaced").get(timeout=WAIT_S) == 42


def test_a_task_that_asks_for_a_retry_runs_again(worker: PoolWorker) -> None:
    assert worker.send("succeeds_at_the_third_try").get(timeout=WAIT_S) == 2


def test_an_error_reaches_the_producer_with_its_type_and_message(worker: PoolWorker) -> None:
    with pytest.raises(ValueError, match="boom"):
        worker.send("fail", "boom").get(timeout=WAIT_S)


def test_the_soft_limit_is_raised_inside_the_task_which_may_clean_up(worker: PoolWorker) -> None:
    result = worker.send("cleans_up_at_soft_limit", soft_time_limit=1)
    assert result.get(timeout=WAIT_S) == "cleaned up"


def test_the_soft_limit_fails_a_task_that_does_not_catch_it(worker: PoolWorker) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        worker.send("sleep", 60, "soft", soft_time_limit=1).get(timeout=WAIT_S)
    assert "cancelled soft" in worker.notes()


@pytest.mark.parametrize("task", ["sleep", "ignores_cancellation"])
def test_the_hard_limit_ends_a_task_whatever_it_does(worker: PoolWorker, task: str) -> None:
    with pytest.raises(TimeLimitExceeded):
        worker.send(task, 3, time_limit=1).get(timeout=WAIT_S)


def test_revoking_a_running_task_cancels_its_coroutine(worker: PoolWorker) -> None:
    result = worker.send("sleep", 60, "revoked")
    worker.until(lambda: "start revoked" in worker.notes())
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WAIT_S)
    worker.until(lambda: "cancelled revoked" in worker.notes())
    assert worker.app.control.inspect().active() == {
        name: [] for name in worker.app.control.inspect().ping() or {}
    }


def test_progress_is_visible_while_the_task_runs(worker: PoolWorker) -> None:
    result = worker.send("reports_progress")
    seen: list[dict[str, Any]] = []
    worker.until(
        lambda: (result.state == "PROGRESS" and (seen.append(result.info) or False)) or result.ready()
    )
    assert {"done": 1, "total": 3, "unit": "steps"} in seen
    assert result.get(timeout=WAIT_S) == "done"


def test_an_unknown_task_fails_at_once_and_names_the_nearest(worker: PoolWorker) -> None:
    with pytest.raises(Exception, match=r"no task 'pool_app\.ad'.*'pool_app\.add'") as caught:
        worker.send("ad").get(timeout=WAIT_S)
    assert type(caught.value).__name__ == "InvalidTask"


def test_a_task_that_exits_does_not_take_the_others_with_it(worker: PoolWorker) -> None:
    neighbour = worker.send("sleep", 1, "neighbour")
    with pytest.raises(Exception, match="exitcode 3"):
        worker.send("exits").get(timeout=WAIT_S)
    assert neighbour.get(timeout=WAIT_S) == "neighbour"


def test_warm_shutdown_finishes_what_is_running(worker: PoolWorker) -> None:
    results = [worker.send("sleep", 2, f"warm{number}") for number in range(20)]
    worker.until(lambda: len(worker.notes()) >= 20)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(WAIT_S) == 0
    assert {result.get(timeout=WAIT_S) for result in results} == {f"warm{number}" for number in range(20)}


def test_cold_shutdown_hands_running_tasks_back_to_the_queue(start: Callable[..., PoolWorker]) -> None:
    first = start()
    results = [first.send("sleep", 3, f"cold{number}") for number in range(10)]
    first.until(lambda: len(first.notes()) >= 10)
    first.process.send_signal(signal.SIGQUIT)
    first.process.wait(WAIT_S)
    assert [note for note in first.notes() if note.startswith("end")] == []
    second = start()
    assert {result.get(timeout=WAIT_S) for result in results} == {f"cold{number}" for number in range(10)}
    assert len([note for note in second.notes() if note.startswith("end")]) == 10


def test_cold_shutdown_does_not_wait_for_a_task_that_ignores_cancellation(worker: PoolWorker) -> None:
    worker.send("ignores_cancellation", 120)
    worker.until(lambda: bool((worker.app.control.inspect().active() or {"": []}).popitem()[1]))
    worker.process.send_signal(signal.SIGQUIT)
    worker.process.wait(30)
    assert "ignored" in worker.notes()


def test_shutdown_finishes_short_tasks_and_hands_long_ones_back(
    start: Callable[..., PoolWorker],
) -> None:
    first = start(GRACE="2")
    short, long = first.send("sleep", 0.8, "short"), first.send("sleep", 60, "long")
    first.until(lambda: {"start short", "start long"} <= set(first.notes()))
    first.process.send_signal(signal.SIGTERM)
    first.process.wait(WAIT_S)
    assert short.get(timeout=1) == "short"
    assert "cancelled long" in first.notes()
    second = start()
    second.until(lambda: second.notes().count("start long") == 2)
    assert second.notes().count("start short") == 1
    long.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        long.get(timeout=WAIT_S)


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_the_same_tasks_run_on_celerys_own_pools(start: Callable[..., PoolWorker], pool: str) -> None:
    worker = start("-P", pool, "-c", "2")
    stats = worker.app.control.inspect(timeout=5).stats() or {}
    assert [node["pool"]["implementation"] for node in stats.values()] == [
        f"celery.concurrency.{pool.removesuffix('s')}:TaskPool"
    ]
    assert worker.send("sleep", 0.1, "here").get(timeout=WAIT_S) == "here"
    assert (
        chain(worker.signature("add", 1, 2), worker.signature("add", 3)).apply_async().get(timeout=WAIT_S)
        == 6
    )
    assert worker.send("succeeds_at_the_third_try").get(timeout=WAIT_S) == 2
    assert worker.send("reports_progress").get(timeout=WAIT_S) == "done"
    with pytest.raises(ValueError, match="boom"):
        worker.send("fail", "boom").get(timeout=WAIT_S)


def test_a_lost_connection_does_not_finish_a_task_twice(worker: PoolWorker, fresh_redis: LocalRedis) -> None:
    results = [worker.send("sleep", 4, f"kept{number}") for number in range(20)]
    worker.until(lambda: len(worker.notes()) >= 20)
    with redis.Redis.from_url(fresh_redis.url) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")
    assert {result.get(timeout=60) for result in results} == {f"kept{number}" for number in range(20)}
    ends = [note for note in worker.notes() if note.startswith("end")]
    assert len(ends) == len(set(ends)) == 20
