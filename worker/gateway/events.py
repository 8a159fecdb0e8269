"""Server-sent events (WHATWG HTML, 9.2)."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

#: Seconds of silence after which a comment is sent: what is between here and the client keeps the connection.
KEEP_ALIVE_S = 15.0

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def event(data: Any, *, kind: str = "", entry_id: str = "") -> str:
    """One event; `data` is JSON, or a str that is sent as it is."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    lines = [f"id: {entry_id}"] * bool(entry_id) + [f"event: {kind}"] * bool(kind) + [f"data: {text}"]
    return "\n".join(lines) + "\n\n"


def response(events: AsyncIterator[str]) -> StreamingResponse:
    """A stream of events."""
    return StreamingResponse(_kept_alive(events), media_type="text/event-stream", headers=HEADERS)


async def _kept_alive(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """The events, with a comment wherever there is none for a while."""
    following = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait((following,), timeout=KEEP_ALIVE_S)
            if not done:
                yield ": waiting\n\n"
                continue
            if (found := following.result()) is None:
                return
            yield found
            following = asyncio.ensure_future(anext(events, None))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await events.aclose()  # type: ignore[attr-defined]
