r"""What the scripted server can do wrong: one function a fault.

A fault is an object `{"fault": NAME, …}`:

    {"fault": "status", "status": 503, "body": …, "headers": {"Retry-After": "2"}}
    {"fault": "html"} · {"fault": "garbage"} · {"fault": "wrong_type"} · {"fault": "json", "body": …}
    {"fault": "half_body"} · {"fault": "close"} · {"fault": "close_mid_stream", "text": "half of"}
    {"fault": "wrong_length", "bytes": -20}             says so many bytes more or less than it sends
    {"fault": "hang"}                                   before the headers
    {"fault": "drip", "seconds": 0.1, "pieces": 50}     a piece now and then, for ever or until it is whole
    {"fault": "huge", "bytes": 1073741824}
    {"fault": "events", "text": "data: …\n\n"}          a stream of exactly these bytes
    {"fault": "content", "content": "…"}                no fault: this text instead of the echo
    {"fault": "message", "message": {"tool_calls": …}}  no fault: this assistant message

Any of them may say `"times"` (how often; default 1, -1 always), `"for_s"` (seconds from now after which it is
over; without "times" it happens always until then), `"after_s"` (seconds a request lives before it happens),
`"path"` (default /v1/chat/completions) and `"request_id"` (only for the request with this `x-request-id`).
"""

import asyncio
import itertools
import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web

from worker.backends.base import Json

CHAT = "/v1/chat/completions"
_BLOCK = b" " * (1024 * 1024)


@dataclass(eq=False, slots=True)
class Fault:
    """One queued fault.

    Attributes:
        name: which one.
        given: the fault as it was queued.
        times: how often it is still to happen; negative: always.
        path: requests it applies to.
        request_id: the one request it applies to; "" for any.
        until_s: `time.monotonic()` after which it is over.
    """

    name: str
    given: Json
    times: int = 1
    path: str = CHAT
    request_id: str = ""
    until_s: float = math.inf

    @classmethod
    def parse(cls, given: Json) -> Self:
        """Read a fault.

        Raises:
            ValueError: there is no such fault.
        """
        name = given.get("fault")
        if name not in {*_FAULTS, "content", "message"}:
            raise ValueError(f"{name!r} is not a fault; known are {', '.join(_FAULTS)}, content, message")
        for_s = given.get("for_s")
        return cls(
            name,
            given,
            given.get("times", 1 if for_s is None else -1),
            given.get("path", CHAT),
            given.get("request_id", ""),
            math.inf if for_s is None else time.monotonic() + for_s,
        )

    @property
    def reply(self) -> Json | None:
        """The assistant message to answer with; None where it is a real fault."""
        if self.name == "content":
            return {"content": self.given["content"]}
        return self.given["message"] if self.name == "message" else None

    @property
    def over(self) -> bool:
        """Whether its time has passed."""
        return time.monotonic() > self.until_s

    def applies_to(self, path: str, request_id: str) -> bool:
        """Whether a request meets this fault."""
        return path == self.path and self.request_id in {"", request_id}


async def commit(fault: Fault, request: web.Request) -> web.StreamResponse:
    """Do it."""
    await asyncio.sleep(fault.given.get("after_s", 0.0))
    return await _FAULTS[fault.name](fault.given, request)


async def _status(given: Json, _: web.Request) -> web.StreamResponse:
    body = given.get("body", {"error": {"message": "as scripted"}})
    text = body if isinstance(body, str) else json.dumps(body)
    headers = {"content-type": "application/json", **given.get("headers", {})}
    return web.Response(status=given["status"], text=text, headers=headers)


async def _html(given: Json, _: web.Request) -> web.StreamResponse:
    page = "<!doctype html><title>Welcome</title><h1>It works!</h1>"
    return web.Response(status=given.get("status", 200), text=page, content_type="text/html")


async def _garbage(_: Json, __: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\x00\xff\xfe{[ not json", content_type="application/json")


async def _wrong_type(_: Json, __: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\x89PNG\r\n", content_type="image/png")


async def _json(given: Json, _: web.Request) -> web.StreamResponse:
    return web.json_response(given.get("body"))


async def _half_body(_: Json, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "1000"})
    await response.prepare(request)
    await response.write(b'{"id": "chatcmpl-1", "choices": [{"mess')
    return _hang_up(request, response)


async def _wrong_length(given: Json, request: web.Request) -> web.StreamResponse:
    whole = json.dumps(_completion("Hello to you")).encode()
    length = len(whole) + given.get("bytes", -20)
    headers = {"content-type": "application/json", "content-length": str(length)}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    await response.write(whole[:length])
    if request.transport is not None:
        request.transport.write(whole[length:])
    return _hang_up(request, response)


async def _close(_: Json, request: web.Request) -> web.StreamResponse:
    return _hang_up(request, web.Response())


async def _close_mid_stream(given: Json, request: web.Request) -> web.StreamResponse:
    response = await _event_stream(request)
    for word in str(given.get("text", "half of")).split(" "):
        event = {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        await response.write(b"data: %s\n\n" % json.dumps(event).encode())
    return _hang_up(request, response)


async def _events(given: Json, request: web.Request) -> web.StreamResponse:
    response = await _event_stream(request)
    await response.write(str(given["text"]).encode())
    await response.write_eof()
    return response


async def _hang(_: Json, __: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _drip(given: Json, request: web.Request) -> web.StreamResponse:
    streamed = (await request.json()).get("stream")
    if streamed:
        response = await _event_stream(request)
    else:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
    for number in itertools.count() if given.get("pieces") is None else range(given["pieces"]):
        event = {"choices": [{"index": 0, "delta": {"content": f"{number} "}, "finish_reason": None}]}
        await response.write(b"data: %s\n\n" % json.dumps(event).encode() if streamed else b" ")
        await asyncio.sleep(given.get("seconds", 0.05))
    await response.write(b"data: [DONE]\n\n" if streamed else json.dumps(_completion("At last")).encode())
    await response.write_eof()
    return response


async def _huge(given: Json, request: web.Request) -> web.StreamResponse:
    stream = "text/event-stream" if (await request.json()).get("stream") else "application/json"
    response = web.StreamResponse(headers={"content-type": stream})
    await response.prepare(request)
    for _ in range(given.get("bytes", 1024**3) // len(_BLOCK)):
        await response.write(_BLOCK)
    await response.write_eof()
    return response


async def _event_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    return response


def _completion(text: str) -> Json:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"object": "chat.completion", "choices": [choice]}


def _hang_up(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.close()
    return response


_FAULTS: dict[str, Callable[[Any, web.Request], Awaitable[web.StreamResponse]]] = {
    "status": _status,
    "html": _html,
    "garbage": _garbage,
    "wrong_type": _wrong_type,
    "json": _json,
    "half_body": _half_body,
    "wrong_length": _wrong_length,
    "close": _close,
    "close_mid_stream": _close_mid_stream,
    "events": _events,
    "hang": _hang,
    "drip": _drip,
    "huge": _huge,
}
