"""What a container allows counts, not what the machine has."""

import os
from pathlib import Path

import pytest

from worker import machine
from worker.wiring import readers_for

ALL = len(os.sched_getaffinity(0))
GB = 10**9


@pytest.mark.parametrize(
    ("said", "cpus"),
    [("100000 100000", 1), ("50000 100000", 1), ("99900000 100000", ALL), ("max 100000", ALL), (None, ALL)],
)
def test_cpus_are_those_of_the_container(tmp_path: Path, said: str | None, cpus: int) -> None:
    if said is not None:
        (tmp_path / "cpu.max").write_text(said + "\n")
    assert machine.cpus(tmp_path) == cpus


def test_cpus_are_those_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert machine.cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(("said", "limited"), [("1000000", True), ("max", False), (None, False)])
def test_memory_is_that_of_the_container(tmp_path: Path, said: str | None, limited: bool) -> None:
    if said is not None:
        (tmp_path / "memory.max").write_text(said + "\n")
    assert (machine.memory_bytes(tmp_path) == 1_000_000) == limited
    assert machine.memory_bytes(tmp_path) > 0


@pytest.mark.parametrize(
    ("cpus", "memory", "readers"),
    [(1, 64 * GB, 1), (8, 64 * GB, 2), (64, 64 * GB, 4), (64, 4 * GB, 2), (64, GB, 1)],
)
def test_readers_fit_in_half_of_the_memory(cpus: int, memory: int, readers: int) -> None:
    assert readers_for(cpus, memory) == readers
