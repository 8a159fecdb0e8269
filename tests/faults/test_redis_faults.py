"""Redis goes away, comes back, falls silent or is full (faults 3 to 7)."""

import contextlib
import threading
import time
import urllib.request

import pytest
import redis

from tests.faults.checker import check
from tests.faults.ground import Ground
from tests.faults.parts import FaultyWorker
from tests.faults.proxy import Proxy
from tests.faults.scale import scaled

# A producer whose Redis dies leaves its connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def test_cut_connections_disturb_nothing_that_runs(ground: Ground) -> None:
    """3: CLIENT KILL TYPE normal 20 times with 200 in flight: 200 model calls, 200 results."""
    count, cuts = scaled(50, 200), scaled(5, 20)
    ground.serve(latency_s=scaled(2.0, 6.0))
    ground.work()
    ground.submit(count)
    ground.wait_in_flight(count)
    for _ in range(cuts):
        ground.redis.client.client_kill_filter(_type="normal", skipme=True)
        time.sleep(0.2)
    assert check(ground).calls == count


@pytest.mark.parametrize("moment", ["idle", "publishing", "acknowledging"])
@pytest.mark.parametrize("away_s", scaled([1], [1, 60]))
def test_a_killed_redis_loses_nothing_it_acknowledged(ground: Ground, moment: str, away_s: float) -> None:
    """4: kill -9 Redis (AOF) idle, publishing, acking; every acknowledged submission completes; consuming resumes
    within 30 s.
    """
    ground.serve(latency_s=0.05)
    ground.work(WORKER_CONCURRENCY=16)
    ground.submit(20)
    ground.wait_outcomes(20)
    publishing = threading.Thread(target=ground.submit_stubbornly, args=(scaled(200, 2000), 0.005))
    if moment == "publishing":
        publishing.start()
        ground.wait("some are published", lambda: len(ground.submitted) > 60)
    if moment == "acknowledging":
        ground.submit(scaled(100, 1000))
        ground.wait_outcomes(50)
    ground.redis.kill()
    time.sleep(away_s)
    ground.redis.start()
    back_s = time.monotonic()
    if moment == "publishing":
        publishing.join()
    ids = ground.submit(10)
    ground.wait("consuming resumes", lambda: len(ground.outcomes(ids)) == len(ids))
    assert time.monotonic() - back_s < 30
    check(ground, settle_s=90)


def test_tasks_that_end_while_redis_is_down_keep_their_results(ground: Ground) -> None:
    """5: Redis down for 2 minutes while 100 tasks finish: all results stored, in-flight back to 0."""
    count, away_s = scaled(30, 100), scaled(4, 120)
    ground.serve(latency_s=1.5)
    worker = ground.work()
    ground.submit(count)
    ground.wait_in_flight(count)
    ground.redis.kill()
    ground.wait("all have ended at the model server", lambda: not ground.in_flight())
    time.sleep(away_s - 1.5)
    ground.redis.start()
    assert check(ground, settle_s=60).calls == count
    ground.wait("nothing is in flight", lambda: _held(worker) == 0)


@pytest.mark.parametrize("how", ["present connections", "all connections for a while"][: scaled(1, 2)])
def test_a_half_open_connection_is_noticed_and_nothing_doubled(ground: Ground, how: str) -> None:
    """6: half-open connection (DROP): recovery within 30 s, nothing doubled. The lease is the default one."""
    ground.serve(latency_s=1.0)
    with Proxy(ground.redis.port) as proxy:
        ground.work(redis_url=proxy.url, WORKER_CONCURRENCY=8)
        ground.submit(24)
        ground.wait_in_flight(8)
        if how == "present connections":
            proxy.drop_present()
        else:
            proxy.go_dark()
            time.sleep(scaled(3, 20))
            proxy.lighten()
        silent_s = time.monotonic()
        ids = ground.submit(8)
        ground.wait("new work is done", lambda: not ground.runs().keys().isdisjoint(ids), 60)
        print(f"new work began {time.monotonic() - silent_s:.1f} s after the connections went silent")
        assert time.monotonic() - silent_s < 30
        assert check(ground, settle_s=60).calls == 32


def test_a_full_redis_tells_submitters_and_lets_running_work_end(ground: Ground) -> None:
    """7: Redis out of memory (noeviction): a clear error, running work drains, nothing evicted."""
    count = scaled(30, 200)
    ground.serve(latency_s=2.0, keep=10)
    ground.work()
    ground.submit(count)
    ground.wait_in_flight(count)
    client = ground.redis.client
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)  # type: ignore[index]
    with pytest.raises(Exception, match="maxmemory"):
        _submit_until_it_is_full(ground)
    count = sum(entry.acknowledged for entry in ground.submitted.values())
    ground.wait_outcomes(count)
    client.delete("filler")
    client.config_set("maxmemory", 0)
    ground.submit(10)
    assert check(ground).calls == count + 10
    assert client.info("stats")["evicted_keys"] == 0  # type: ignore[index]


def _submit_until_it_is_full(ground: Ground) -> None:
    """Raises what the producer gets; work that ends meanwhile makes room again."""
    while True:
        with contextlib.suppress(redis.RedisError):
            while True:
                ground.redis.client.rpush("filler", "x" * 10_000)
        ground.submit(1, retry=False)


def _held(worker: FaultyWorker) -> int:
    with urllib.request.urlopen(worker.health_url + "/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("kc_tasks_in_flight "):
                return int(float(line.split()[1]))
    raise AssertionError("kc_tasks_in_flight is not among the metrics")
