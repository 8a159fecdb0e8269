"""The application: routes, and what stands before them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker import __version__, metrics
from worker.batch.feeder import BATCHES, FILES
from worker.batch.records import Records
from worker.database.drawings import Drawings
from worker.database.engine import Database
from worker.delivery.asking import unusable
from worker.delivery.following import Follower
from worker.delivery.sending import Sender
from worker.errors import SettingsError
from worker.gateway import batches, diagrams, documents, files, openai, operating, tasks
from worker.gateway.answers import ApiError, answer, gone, on_api_error, unavailable
from worker.gateway.desk import Desk, Reading
from worker.gateway.feeding import kept_feeding
from worker.gateway.guard import REQUEST_ID, Guard
from worker.gateway.keys import KeyRing
from worker.redis_client import RedisAddress
from worker.settings import Settings
from worker.storage.blobs import Blobs
from worker.storage.files import FileStore

#: The schema of the errors FastAPI would answer with.
_FASTAPIS = "HTTPValidationError"
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_DESCRIPTION = """
Language-model work as tasks, on your own servers. Everything goes through the queue: any task by its name
under `/v1/tasks`, and OpenAI's API under `/v1`.
"""


def create_app(chosen: Settings) -> FastAPI:
    """The gateway for these settings.

    Raises:
        SettingsError: GATEWAY_API_KEYS cannot be read, or is empty where others could connect.
    """
    group, address = chosen.gateway, chosen.redis.address
    keys = KeyRing(group.gateway_api_keys.get_secret_value())
    if not group.gateway_api_keys.get_secret_value() and group.gateway_host not in _LOOPBACK:
        raise SettingsError(
            f"GATEWAY_API_KEYS is empty and GATEWAY_HOST={group.gateway_host} lets others connect. Make a "
            "key with `kc-worker gateway key NAME`, or set GATEWAY_API_KEYS=none."
        )

    reading = Reading(
        Blobs(chosen.storage.blob_dir), group.ocr_results, group.ocr_upload, chosen.storage.max_input_bytes
    )

    database = Database(chosen.database.database_url.get_secret_value())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with address.connect(64) as client, Follower(address) as follower, kept_feeding():
            sender = Sender(client, group.gateway_max_waiting)
            app.state.desk = Desk(
                client, follower, sender, keys, chosen.redis.result_ttl_s,
                FileStore(chosen.batch.files_dir / FILES), Records(chosen.batch.files_dir / BATCHES), reading,
                Drawings(database),
            )  # fmt: skip
            yield
        await asyncio.to_thread(database.close)

    # Its pages bring what they show: nothing is fetched from elsewhere.
    app = FastAPIOffline(
        redoc_url=None,
        title="kc-worker gateway",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    for routes in (tasks, openai, files, batches, documents, diagrams, operating):
        app.include_router(routes.router)
    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(RedisError, _redis_is_away(address))
    app.add_exception_handler(OSError, _redis_is_away(address))
    if group.gateway_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(group.gateway_cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID"],
            expose_headers=[REQUEST_ID, "Retry-After"],
        )
    most = {
        files.router.prefix: chosen.batch.max_file_bytes + files.FORM_BYTES,
        documents.UPLOAD_PATH: chosen.storage.max_input_bytes + files.FORM_BYTES,
        diagrams.UPLOAD_PATH: chosen.storage.max_input_bytes + files.FORM_BYTES,
    }
    app.add_middleware(
        Guard,
        most_bytes=lambda path: most.get(path, chosen.storage.max_message_bytes),
        timeout_s=group.gateway_body_timeout_s,
    )
    app.add_middleware(_Counted)
    _without_fastapis_422(app)
    return app


class _Counted:
    """ASGI middleware: counts requests by the route that answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                metrics.of(metrics.GATEWAY_REQUESTS, scope["method"], route, str(message["status"])).inc()
                metrics.of(metrics.GATEWAY_SECONDS, route).observe(time.monotonic() - began)
            await send(message)

        with metrics.GATEWAY_OPEN.track_inprogress():
            await self._app(scope, receive, send_counted)


async def _on_http_error(_request: Request, error: Exception) -> JSONResponse:
    """No such route, or not by this method."""
    if not isinstance(error, HTTPException):
        raise error
    return answer(ApiError(error.status_code, str(error.detail), headers=error.headers))


async def _on_gone(_request: Request, _error: Exception) -> JSONResponse:
    """The caller went away while he was still sending; nobody reads this."""
    return answer(gone())


async def _on_invalid(_request: Request, error: Exception) -> JSONResponse:
    """A parameter that is wrong."""
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return answer(ApiError(400, f"`{name}`: {first['msg']}.", param=name))


def _redis_is_away(address: RedisAddress) -> Any:
    async def on_error(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, RedisError | ConnectionError | TimeoutError):
            raise error
        message = str(unusable(address, error))
        return answer(unavailable(message, "redis_unavailable"))

    return on_error


def _without_fastapis_422(app: FastAPI) -> None:
    """What is wrong with a request is answered with 400 and OpenAI's error object, and documented so."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        document = generated()
        for path in document["paths"].values():
            for operation in path.values():
                if _FASTAPIS in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        for name in (_FASTAPIS, "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
