"""Between the network and the routes: requests that are too long, too slow or compressed go no further.

Plain ASGI, so that answers are streamed as they come.
"""

import asyncio
import re
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.gateway.answers import ApiError, answer

REQUEST_ID = "x-request-id"
_USABLE_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Guard:
    """ASGI middleware.

    Args:
        app: what comes next.
        most_bytes: of a request's body, by its path.
        timeout_s: seconds until the next piece of a body has to be there.
    """

    def __init__(self, app: ASGIApp, most_bytes: Callable[[str], int], timeout_s: float) -> None:
        self._app, self._most_bytes, self._timeout_s = app, most_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if _USABLE_ID.fullmatch(given) else str(uuid.uuid4())
        began = False

        async def send_named(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        body = _Body(receive, self._most_bytes(scope["path"]), self._timeout_s)
        try:
            body.expect(headers)
            await self._app(scope, body.receive, send_named)
        except ApiError as error:
            if began:
                raise
            error.headers["connection"] = "close"  # what is still to come of the body is not read
            await answer(error)(scope, receive, send_named)


class _Body:
    """A body as it comes in."""

    def __init__(self, receive: Receive, most: int, timeout_s: float) -> None:
        self._receive, self._most, self._timeout_s = receive, most, timeout_s
        self._had, self._whole = 0, False

    def expect(self, headers: Headers) -> None:
        """Refuse what can be refused by its headers."""
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "Compressed bodies are not taken; send it as it is.", "unsupported_encoding")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._most:
            raise self._too_long()

    async def receive(self) -> Message:
        """The next piece; after the last one, that the client has gone, whenever that will be."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout(self._timeout_s):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, f"Nothing came for {self._timeout_s:g} s.", "timeout") from None
        if message["type"] == "http.request":
            self._had += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._had > self._most:
                raise self._too_long()
        return message

    def _too_long(self) -> ApiError:
        return ApiError(413, f"A request here may have {self._most:,} bytes.", "input_too_large")
