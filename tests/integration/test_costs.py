"""What a task costs in counts, which no busy machine changes: `make bench` measures what it costs in time."""

from collections.abc import Iterator

import pytest

from bench.modelserver import BenchServer
from bench.queues import Ours
from bench.running import Running, Used

#: Commands Redis carries out for one chat on the worker's side, those inside scripts included.
MOST_COMMANDS = 26
#: Times the worker's side waits for Redis for one chat; what is sent together counts once.
MOST_ROUND_TRIPS = 1
#: Threads of a worker, however many tasks it holds.
MOST_THREADS = 12

TASKS = 500


@pytest.fixture(scope="module")
def used() -> Iterator[Used]:
    """What 500 chats use that were queued beforehand, 64 in flight."""
    with BenchServer(latency=0.05) as server:
        server.wait_ready()
        with Running(Ours(), server.url, 64) as running:
            running.warm(64)
            yield running.measure(TASKS)


def test_a_task_takes_few_redis_commands(used: Used) -> None:
    assert used.redis_commands / used.tasks <= MOST_COMMANDS


def test_a_task_takes_few_round_trips_to_redis(used: Used) -> None:
    assert used.redis_round_trips / used.tasks <= MOST_ROUND_TRIPS


def test_tasks_in_flight_take_no_threads(used: Used) -> None:
    assert used.threads <= MOST_THREADS
