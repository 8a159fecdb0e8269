"""`kc-worker` as a person types it, in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.container_settings import CONTAINER_SETTINGS
from worker.settings import setting_names

Result = subprocess.CompletedProcess[str]
KcWorker = Callable[..., Result]

KC_WORKER = [sys.executable, "-m", "worker"]


def clean_environment(**changes: str) -> dict[str, str]:
    foreign = {*setting_names(), *CONTAINER_SETTINGS}
    return {name: value for name, value in os.environ.items() if name not in foreign} | changes


@pytest.fixture
def kc_worker(tmp_path: Path) -> KcWorker:
    """`kc_worker("run", …, REDIS_URL=…)` in an empty folder, with only these settings."""

    def call(*arguments: str, **settings: str) -> Result:
        return subprocess.run(
            [*KC_WORKER, *arguments],
            cwd=tmp_path,
            env=clean_environment(**settings),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call
