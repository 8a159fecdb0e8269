"""A scripted server and backends on it; both are closed after the test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from worker.backends import create_backend, fleet, watch
from worker.backends.base import Backend, BackendOptions
from worker.backends.scripted import Scripted

BackendFactory = Callable[..., Backend]


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    async with Scripted() as scripted:
        yield scripted


@pytest.fixture
async def connect() -> AsyncIterator[BackendFactory]:
    """`connect(server, …, kind="llamacpp", timeout_s=5, …)` gives a backend on these servers or URLs."""
    async with AsyncExitStack() as opened:

        def make(*servers: Scripted | str, kind: Any = "llamacpp", **options: Any) -> Backend:
            urls = tuple(server if isinstance(server, str) else server.url for server in servers)
            backend = create_backend(kind, BackendOptions(urls=urls, **{"timeout_s": 5.0, **options}))
            opened.push_async_callback(backend.aclose)
            return backend

        yield make


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of milliseconds between attempts and for servers that were put aside."""
    monkeypatch.setattr(watch, "PROBE_EVERY_S", 0.002)
    monkeypatch.setattr(fleet, "LEAST_WAIT_S", 0.001)
    monkeypatch.setattr(fleet, "MOST_WAIT_S", 0.002)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """`await until(condition, seconds=5)`."""

    async def wait(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    return wait
