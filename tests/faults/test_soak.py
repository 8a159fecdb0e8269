"""Everything goes wrong, again and again, for a long time (fault 16)."""

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import pytest
import redis

from tests.faults.checker import check, dead_letters, left_behind
from tests.faults.ground import Ground
from tests.faults.parts import RESULT, FaultyWorker
from tests.faults.scale import SOAK_S, scaled

# A producer whose Redis dies leaves its connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

EVERY_S, SAMPLE_EVERY_S, PAUSE_S = scaled(3.5, 20.0), scaled(0.5, 5.0), 0.03
HELD = scaled(16, 64)
#: One task in so many is wrong in itself, and for one the model server fails whenever it is asked.
WRONG_ONE_IN, DOOMED_ONE_IN = scaled((20, 100), (50, 500))
MB = 1_000_000
#: More than this from the middle third of the time to the last one is growth.
MAY_VARY = {
    "memory": scaled(15, 5) * MB,
    "files": scaled(12, 6),
    "threads": 2,
    "connections": 10,
    "keys": 10,
    "fields": 2 * HELD,
}
#: As full as the workers are busy.
BUSY = {b"kc:held", b"kc:held:info", b"kc:run"}


class Soak:
    """Workers, a model server, a stream of tasks, and what goes wrong.

    Attributes:
        steady: a worker that nobody ends, so that it can be seen whether it grows.
        wrong, doomed: ids of tasks that must end in FAILURE, and as dead letters.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.steady = self._work()
        self.crew: list[FaultyWorker] = []
        self.wrong: set[str] = set()
        self.doomed: set[str] = set()
        self.done: Counter[str] = Counter()
        self.samples: list[dict[str, int]] = []
        self.faults: list[Callable[[], None]] = [
            self.kill_worker,
            self.stop_worker,
            self.cut_connections,
            self.kill_redis,
            self.kill_server,
            self.refuse,
            self.cancel_some,
        ]

    @contextlib.contextmanager
    def submitting(self) -> Iterator[None]:
        """Tasks come all the time."""
        over = threading.Event()

        def keep_submitting() -> None:
            while not over.wait(PAUSE_S):
                with contextlib.suppress(Exception):  # Redis, or the server that is told what to do, is away
                    self._submit_one()

        thread = threading.Thread(target=keep_submitting)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def go_wrong(self) -> None:
        """One fault after the other, each kind before any again."""
        ends_s = time.monotonic() + SOAK_S
        order: list[Callable[[], None]] = []
        while time.monotonic() < ends_s:
            order = order or self.ground.random.sample(self.faults, len(self.faults))
            fault = order.pop()
            print(f"{time.monotonic() - self.ground.started_s:.1f} s {fault.__name__}", flush=True)
            fault()
            self.done[fault.__name__] += 1
            rest_ends_s = time.monotonic() + EVERY_S * self.ground.random.uniform(0.5, 1.0)
            while time.monotonic() < rest_ends_s:
                self._sample()
                time.sleep(SAMPLE_EVERY_S)

    def grown(self) -> dict[str, str]:
        """What was more in the last third of the time than in the middle one, by their medians."""
        third = len(self.samples) // 3
        middle, last = self.samples[third : 2 * third], self.samples[2 * third :]
        found = {}
        for name, may in MAY_VARY.items():
            before, after = (median(sample[name] for sample in part) for part in (middle, last))
            print(f"{name}: {before:,.0f} in the middle third, {after:,.0f} in the last")
            if after - before > may:
                found[name] = f"{before:,.0f} -> {after:,.0f}"
        return found

    def hire(self) -> None:
        self.crew.append(self._work())

    def kill_worker(self) -> None:
        self._victim().kill()
        self.hire()

    def stop_worker(self) -> None:
        victim = self._victim()
        victim.signal(signal.SIGTERM)
        self.hire()
        victim.wait_end(60)

    def cut_connections(self) -> None:
        self.ground.redis.client.client_kill_filter(_type="normal", skipme=True)

    def kill_redis(self) -> None:
        self.ground.redis.kill()
        time.sleep(1)
        self.ground.redis.start()

    def kill_server(self) -> None:
        self.ground.server.kill()
        time.sleep(1)
        self.ground.server.start()

    def refuse(self) -> None:
        self.ground.server.script({"fault": "status", "status": 503, "for_s": 2})

    def cancel_some(self) -> None:
        recent = list(self.ground.submitted)[-50:]
        for one in self.ground.random.sample(recent, min(10, len(recent))):
            self.ground.cancel(one)

    def _submit_one(self) -> None:
        ground, options = self.ground, None
        task_id = ""
        if ground.random.randrange(WRONG_ONE_IN) == 0:
            self.wrong.add(task_id := f"wrong-{ground.random.getrandbits(64):x}")
            options = {"no such option": 1}
        elif ground.random.randrange(DOOMED_ONE_IN) == 0:
            self.doomed.add(task_id := f"doomed-{ground.random.getrandbits(64):x}")
            ground.server.script({"fault": "status", "status": 500, "times": -1, "request_id": task_id})
        ground.submit(1, task_id=task_id, options=options, retry=False)

    def _sample(self) -> None:
        client: Any = self.ground.redis.client
        with contextlib.suppress(redis.RedisError):  # it is away
            keys = [key for key in client.scan_iter(count=5000) if not key.startswith(RESULT.encode())]
            self.samples.append(
                {
                    **self.steady.usage(),
                    "connections": len(client.client_list()),
                    "keys": len(keys),
                    "fields": sum(
                        client.hlen(key) for key in keys if key not in BUSY and client.type(key) == b"hash"
                    ),
                }
            )

    def _work(self) -> FaultyWorker:
        return self.ground.work(
            ready=False,
            WORKER_CONCURRENCY=HELD,
            LLM_MAX_CONCURRENCY=HELD,
            WORKER_LEASE_S=scaled(5, 10),
            TASK_MAX_RETRIES=1,
        )

    def _victim(self) -> FaultyWorker:
        victim = self.crew.pop(self.ground.random.randrange(len(self.crew)))
        victim.wait_ready()
        return victim


def test_after_a_long_time_of_faults_every_task_has_its_outcome_and_nothing_has_grown(ground: Ground) -> None:
    """16: submitted = succeeded + failed + cancelled + dead; memory, descriptors, connections, Redis keys flat."""
    ground.serve(latency_s=0.3, keep=10)
    soak = Soak(ground)
    for _ in range(scaled(1, 2)):
        soak.hire()
    for worker in (soak.steady, *soak.crew):
        worker.wait_ready()
    ground.submit(2 * HELD)
    ground.wait_outcomes(2 * HELD)
    with soak.submitting():
        soak.go_wrong()
    found = check(
        ground,
        expected=("SUCCESS", "FAILURE", "REVOKED"),
        may_stay=("kc:dead", "kc:dead:entries"),
        settle_s=scaled(90, 300),
    )
    print(f"{dict(soak.done)}: {found.submitted} submitted, {dict(found.outcomes)}, {found.calls} calls")
    dead = dead_letters(ground)
    failed = {one for one, outcome in ground.outcomes().items() if outcome == "FAILURE"}
    assert failed - dead <= soak.wrong
    assert dead <= soak.doomed
    sure = sum(entry.acknowledged for entry in ground.submitted.values())
    assert sure <= sum(found.outcomes.values()) <= found.submitted
    assert not soak.grown()
    ground.command("dlq", "purge", "--all")
    assert not left_behind(ground)
