"""How many requests a second a server can answer at all: bare sockets that send one prepared request."""

import asyncio
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop

_BODY = b'{"model":"bench","messages":[{"role":"user","content":"Say something."}]}'


class _Caller(asyncio.Protocol):
    """One connection that asks again as soon as it was answered."""

    def __init__(self, host: str, counts: list[int]) -> None:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        self._request = b"%scontent-length: %d\r\n\r\n%s" % (head.encode(), len(_BODY), _BODY)
        self._counts = counts
        self._expected = self._got = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._expected:
            head, _, _ = data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            self._expected = len(head) + 4 + length
        self._got += len(data)
        if self._got >= self._expected:
            self._got = 0
            self._counts[0] += 1
            self._transport.write(self._request)


async def _measure(url: str, connections: int, seconds: float) -> float:
    parts = urlsplit(url)
    counts = [0]
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(
            lambda: _Caller(parts.netloc, counts), parts.hostname or "", parts.port or 80
        )
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds / 4)
    counts[0], started = 0, time.perf_counter()
    await asyncio.sleep(seconds)
    rate = counts[0] / (time.perf_counter() - started)
    for transport, _ in made:
        transport.close()
    return rate


def ceiling(url: str, connections: int = 64, seconds: float = 1.0) -> float:
    """Requests a second this server answers when it is asked as fast as one process can.

    Args:
        url: base URL; the server's answers must all have one length.
        connections: requests in flight.
        seconds: how long to measure.
    """
    return uvloop.run(_measure(url, connections, seconds))
