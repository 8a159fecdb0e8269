"""The worker's own health and metrics, on WORKER_HEALTH_PORT.

/health/live    200 while the loop answers: restart the process otherwise
/health/ready   200, or 503 with the reasons: Redis, the model servers, shutdown
/metrics        Prometheus
"""

import asyncio
from typing import Any

from aiohttp import web
from celery import bootsteps
from celery.bootsteps import RUN  # type: ignore[attr-defined]  # missing in the stubs
from celery.utils.log import get_logger
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError

from worker import __version__, metrics
from worker.backends.base import ServerLoad, State
from worker.delivery import truth
from worker.execution.bridge import process_loop
from worker.wiring import Runtime, runtime

logger = get_logger(__name__)

#: Seconds a probe of Redis or of a model server may take.
PROBE_TIMEOUT_S = 3.0


class HealthServer:
    """Answers probes about one worker.

    Args:
        shared: this process's settings and backend.
        worker: Celery's WorkController, asked whether it consumes; None where there is none.
    """

    def __init__(self, shared: Runtime, worker: Any = None) -> None:
        self._shared = shared
        self._worker = worker
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application()
        app.router.add_get("/health/live", self._live)
        app.router.add_get("/health/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        group = self._shared.settings.worker
        await web.TCPSite(self._runner, group.worker_health_host, group.worker_health_port).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def reasons(self) -> list[str]:
        """Why this worker cannot do work now; empty when it can."""
        redis, servers = await asyncio.gather(
            self._shared.settings.redis.address.ping(PROBE_TIMEOUT_S), self._server_reasons()
        )
        return [reason for reason in (self._consumer_reason(), redis) if reason] + servers

    def _consumer_reason(self) -> str | None:
        if self._worker is None:
            return None
        consumer = getattr(self._worker, "consumer", None)
        if self._worker.blueprint.state != RUN:
            return "The worker is starting or shutting down"
        if consumer is None or consumer.connection is None or not consumer.connection.connected:
            return "The worker has no connection to Redis"
        return None

    async def _server_reasons(self) -> list[str]:
        """Empty while at least one model server is ready."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                probes = await self._shared.backend.probe()
        except TimeoutError:
            urls = self._shared.settings.backend.llm_server_url
            return [f"{url}: no answer within {PROBE_TIMEOUT_S:g} s" for url in urls]
        if any(probe.state is State.READY for probe in probes):
            return []
        return [f"{probe.url}: {probe.reason}" for probe in probes]

    async def _live(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": __version__})

    async def _ready(self, _request: web.Request) -> web.Response:
        reasons = await self.reasons()
        if reasons:
            return web.json_response({"status": "unavailable", "reasons": reasons}, status=503)
        return web.json_response({"status": "ok"})

    async def _metrics(self, _request: web.Request) -> web.Response:
        _show_gate(self._shared.backend.load())
        try:
            async with (
                asyncio.timeout(PROBE_TIMEOUT_S),
                self._shared.settings.redis.address.connect_once() as client,
            ):
                truth.show(await truth.look(client))
        except (TimeoutError, RedisError, OSError):
            truth.show(None)
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _show_gate(servers: list[ServerLoad]) -> None:
    for server in servers:
        metrics.SERVER_READY.labels(server.url).set(server.state is State.READY)
        metrics.SERVER_LIMIT.labels(server.url).set(server.limit)
        metrics.SERVER_IN_FLIGHT.labels(server.url).set(server.in_flight)
        metrics.GATE_WAITING.set(server.waiting)  # the same for each


class HealthStep(bootsteps.StartStopStep):
    """Starts and stops the server with the worker."""

    requires = ("celery.worker.components:Pool",)
    label = "health"

    def __init__(self, worker: Any, **_: Any) -> None:
        self._server: HealthServer | None = None

    def start(self, worker: Any) -> None:
        """Listen, if a port is set; a port that is taken is said and does not stop the worker."""
        shared = runtime()
        port = shared.settings.worker.worker_health_port
        if port == 0:
            return
        self._server = HealthServer(shared, worker)
        try:
            asyncio.run_coroutine_threadsafe(self._server.start(), process_loop()).result()
        except OSError as error:
            logger.error(
                "WORKER_HEALTH_PORT %d: %s. This worker runs without health and metrics.", port, error
            )
            self._server = None

    def stop(self, worker: Any) -> None:
        """Stop listening."""
        if self._server is not None:
            asyncio.run_coroutine_threadsafe(self._server.stop(), process_loop()).result(timeout=5)
            self._server = None

    def terminate(self, worker: Any) -> None:
        """A cold shutdown ends the server all the same."""
        self.stop(worker)
