"""Everything goes wrong, again and again, for a long time (fault 16)."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.checker import check, dead_letters
from tests.faults.ground import FaultyWorker, Ground
from tests.faults.scale import scaled

# A producer whose Redis dies leaves its connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

LASTS_S, EVERY_S = scaled(25, 1800), scaled(5, 20)
HELD = scaled(16, 64)
MB = 1_000_000


class Soak:
    """Two workers, a model server, a stream of tasks, and what goes wrong."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.crew: list[FaultyWorker] = []
        self.done: Counter[str] = Counter()
        self.faults: list[Callable[[], None]] = [
            self.kill_worker,
            self.stop_worker,
            self.cut_connections,
            self.kill_redis,
            self.kill_server,
            self.refuse,
            self.cancel_some,
        ]

    def hire(self) -> None:
        settings = {"WORKER_CONCURRENCY": HELD, "LLM_MAX_CONCURRENCY": HELD, "WORKER_LEASE_S": scaled(1, 10)}
        self.crew.append(self.ground.work(ready=False, **settings))

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

    def _victim(self) -> FaultyWorker:
        victim = self.crew.pop(self.ground.random.randrange(len(self.crew)))
        victim.wait_ready()
        return victim


def test_after_a_long_time_of_faults_every_task_has_its_outcome_and_nothing_has_grown(ground: Ground) -> None:
    """16: submitted = succeeded + failed + cancelled + dead; memory, descriptors, connections, Redis keys flat."""
    soak = Soak(ground)
    ground.serve(latency_s=0.3, keep=10)
    for _ in range(2):
        soak.hire()
    for worker in soak.crew:
        worker.wait_ready()
    ground.submit(2 * HELD)
    ground.wait_outcomes(2 * HELD)
    connections = len(ground.redis.client.client_list())
    over = threading.Event()

    def keep_submitting() -> None:
        while not over.is_set():
            ground.submit_stubbornly(1, 0.02)

    submitting = threading.Thread(target=keep_submitting)
    submitting.start()
    try:
        ends_s = time.monotonic() + LASTS_S
        order: list[Callable[[], None]] = []
        while time.monotonic() < ends_s:
            order = order or ground.random.sample(soak.faults, len(soak.faults))
            fault = order.pop()
            print(f"{time.monotonic() - ground.started_s:.1f} s {fault.__name__}", flush=True)
            soak.done[fault.__name__] += 1
            fault()
            time.sleep(EVERY_S * ground.random.uniform(0.5, 1.0))
    finally:
        over.set()
        submitting.join()
    found = check(ground, expected=("SUCCESS", "FAILURE", "REVOKED"), settle_s=scaled(90, 300))
    dead = dead_letters(ground)
    assert found.outcomes["FAILURE"] == len(dead) == 0, f"dead: {dead}"
    sure = sum(entry.acknowledged for entry in ground.submitted.values())
    assert sure <= sum(found.outcomes.values()) <= found.submitted
    for worker in soak.crew:
        used = worker.usage()
        assert used["memory"] < 250 * MB
        assert used["files"] < 200
        assert used["threads"] <= 20
    ground.wait("connections are as many as before", lambda: _connections(ground) <= connections + 4, 30)


def _connections(ground: Ground) -> int:
    return len(ground.redis.client.client_list())
