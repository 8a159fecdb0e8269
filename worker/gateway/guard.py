"""Between the network and the routes: requests that are too long, too slow or compressed go no further.

Plain ASGI, so that answers are streamed as they come.
"""

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.gateway.answers import ApiError, answer

REQUEST_ID = "x-request-id"
#: Bytes a second a body has to come with, on average, once its timeout is over.
SLOWEST_BYTES_S = 16 * 1024
#: Bytes and seconds of a body that is not wanted any more and is read all the same.
LINGER_BYTES, LINGER_S = 4 * 1024 * 1024, 1.0
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
                answers = MutableHeaders(scope=message)
                answers[REQUEST_ID] = request_id
                if not body.whole:
                    await body.drain()
                    answers["connection"] = "close"
            await send(message)

        body = _Body(receive, headers, self._most_bytes(scope["path"]), self._timeout_s)
        try:
            body.check()
            await self._app(scope, body.receive, send_named)
        except ApiError as error:
            if began:
                raise
            await answer(error)(scope, receive, send_named)


class _Body:
    """A body as it comes in.

    It has to go on within `timeout_s`, and from then on to come no slower than `SLOWEST_BYTES_S` on average:
    a byte now and then would hold a place for ever.
    """

    def __init__(self, receive: Receive, headers: Headers, most: int, timeout_s: float) -> None:
        self._receive, self._headers, self._most, self._timeout_s = receive, headers, most, timeout_s
        self._had = 0
        self._began_s = time.monotonic()
        self._ended = False
        self.whole = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers

    def check(self) -> None:
        """Refuse what can be refused by its headers."""
        headers = self._headers
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "Compressed bodies are not taken; send it as it is.", "unsupported_encoding")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._most:
            raise self._too_long()

    async def receive(self) -> Message:
        """The next piece; after the last one, that the client has gone, whenever that will be."""
        if self._ended:
            return await self._receive()
        late_s = self._began_s + self._timeout_s + self._had / SLOWEST_BYTES_S - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(self._timeout_s, late_s))):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "The body came too slowly.", "timeout") from None
        if message["type"] == "http.request":
            self._had += len(message.get("body", b""))
            self.whole = self._ended = not message.get("more_body", False)
            if self._had > self._most:
                raise self._too_long()
        return message

    async def drain(self) -> None:
        """Read what is left of it where that is little: who still sends hears no answer."""
        left = LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self._ended and left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    self._ended = not message.get("more_body", False)

    def _too_long(self) -> ApiError:
        return ApiError(413, f"A request here may have {self._most:,} bytes.", "input_too_large")
