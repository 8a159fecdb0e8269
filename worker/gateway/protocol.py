"""HTTP/1.1 as uvicorn speaks it, with two limits it lacks: how long a request's head may be, and how slow."""

import asyncio
import json
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from worker.contracts.openai import Refusal

#: Bytes of a request's line and headers together.
MOST_HEAD_BYTES = 32 * 1024
#: Seconds in which they have to be there; counted from the connection, or from their first byte.
HEAD_TIMEOUT_S = 20.0

#: Bytes received for each of a body, at most: pieces of one byte take seven.
_FRAME_BYTES = 16

_TOO_LONG = Refusal(
    431, f"The headers have more than {MOST_HEAD_BYTES:,} bytes.", "invalid_request_error", "headers_too_long"
)
_TOO_SLOW = Refusal(
    408, f"No whole request came in {HEAD_TIMEOUT_S:g} s.", "invalid_request_error", "timeout"
)
_WRONG = Refusal(400, "This is not HTTP/1.1.", "invalid_request_error", "invalid_http")
_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_bytes = 0
        self._in_head = self._began = True
        self._received = self._body = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._why = _WRONG

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It begins with a head."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a head, a body, or several."""
        self._began = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(_TOO_LONG)
                return
        elif not self._began:
            # What comes with a body and is none of it: the sizes of its pieces, and trailers.
            self._received += len(data)
            if self._received > MOST_HEAD_BYTES + _FRAME_BYTES * self._body:
                self._refuse(_TOO_LONG)
                return
        between = self.cycle is None or self.cycle.response_complete
        if self._head_timer is None and (self._in_head or (between and self.timeout_keep_alive_task is None)):
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def on_message_begin(self) -> None:
        """A head."""
        super().on_message_begin()
        self._in_head = self._began = True
        self._head_bytes = self._received = self._body = 0

    def on_body(self, body: bytes) -> None:
        """Some of a body."""
        self._body += len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Its end."""
        self._stop_timer()
        self._in_head = False
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MOST_HEAD_BYTES:
            self._why = _TOO_LONG
            raise ValueError(_TOO_LONG.message)  # the parser stops, and `send_400_response` says why
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What was sent is not understood."""
        self._refuse(self._why)

    def _give_up(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(_TOO_SLOW)
        else:
            self.transport.close()

    def _refuse(self, why: Refusal) -> None:
        body = json.dumps(why.body).encode()
        head = (
            f"HTTP/1.1 {why.status} {_REASONS[why.status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
