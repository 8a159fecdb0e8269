"""A gateway in a process of its own, and what stands behind it."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from worker.local.celery_worker import LocalWorker
from worker.local.gateway import LocalGateway
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


Call = Callable[..., Answer]


def caller_of(url: str) -> Call:
    """`call("/path", body, method="…", key="…", **headers)`: an HTTP request as any program makes it."""

    def call(
        path: str, body: Any = None, *, method: str | None = None, key: str = "", **headers: str
    ) -> Answer:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            named.setdefault("content-type", "application/json")
        if key:
            named["authorization"] = f"Bearer {key}"
        request = urllib.request.Request(url + path, data, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as found:
                return Answer(found.status, dict(found.headers), found.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())

    return call


@pytest.fixture(scope="module")
def scripted() -> Iterator[LocalScripted]:
    with LocalScripted("vllm", latency_s=0.5, tokens=5000) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def at_work(
    broker: LocalRedis, scripted: LocalScripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalWorker]:
    """A worker behind the scripted server."""
    folder = tmp_path_factory.mktemp("worker")
    with LocalWorker(broker.url, scripted.url, backend="vllm", directory=folder) as worker:
        worker.wait_ready()
        yield worker


@pytest.fixture(scope="module")
def gateway(broker: LocalRedis) -> Iterator[LocalGateway]:
    """Without keys."""
    with LocalGateway(broker.url) as gateway:
        gateway.wait_ready()
        yield gateway


@pytest.fixture(scope="module")
def call(gateway: LocalGateway) -> Call:
    return caller_of(gateway.url)


GatewayFactory = Callable[..., LocalGateway]


@pytest.fixture
def open_gateway(broker: LocalRedis, tmp_path: Path) -> Iterator[GatewayFactory]:
    """`open_gateway(redis_url=…, GATEWAY_…=…)`: one with these settings."""
    opened: list[LocalGateway] = []

    def start(redis_url: str = broker.url, **env: str) -> LocalGateway:
        gateway = LocalGateway(redis_url, env=env, directory=tmp_path / f"gateway-{len(opened)}")
        opened.append(gateway)
        gateway.wait_ready()
        return gateway

    yield start
    for gateway in opened:
        gateway.stop()
