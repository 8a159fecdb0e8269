"""What every engine must do alike, from a plain Celery producer through a real worker.

Without ENGINE the suite runs on llama.cpp's server (`make test`); `make test-engines` runs it on each engine,
with ENGINE, LLM_BACKEND and LLM_SERVER_URL in the environment.
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from celery import Celery
from celery.result import AsyncResult
from conftest_shared import LLAMA_SLOTS

from worker.backends.base import Backend, BackendOptions
from worker.backends.registry import create_backend
from worker.local.celery_worker import LocalWorker
from worker.local.redis import LocalRedis

#: Seconds any one answer may take: two cores, shared with whatever else runs.
WAIT_S = 240
