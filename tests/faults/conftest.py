"""Every scenario has a seed, printed with a failure: `FAULT_SEED=… pytest tests/faults -k …` repeats its choices."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.ground import Ground, opened_ground


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    """A Redis and a producer; the test starts its servers and workers."""
    seed = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(10**6))
    print(f"FAULT_SEED={seed}")
    with opened_ground(tmp_path, seed) as opened:
        yield opened
