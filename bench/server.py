"""A model server that costs next to nothing: it answers after a time that was asked for, from a fixed text.

    python -m bench.server --port 8000 --latency 0.2 --slots 32 --kind vllm

Only what a benchmark needs of HTTP/1.1 and of the OpenAI API, on bare protocols, so that on a machine of two
cores most of the time is left to what is measured. `worker.backends.scripted` is the stand-in that can do
everything; it costs four times as much.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import time
from collections import deque
from dataclasses import dataclass
from typing import cast

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"x-request-id: *([^\r]+)", re.IGNORECASE)
_STREAMED = re.compile(rb'"stream": *true')
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _answer(body: object) -> bytes:
    """A whole HTTP answer with a JSON body, `str` being sent as it is."""
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    kind = b"text/plain" if isinstance(body, str) else b"application/json"
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
        kind,
        len(content),
        content,
    )


def _event(fields: dict[str, object] | str) -> bytes:
    """One server-sent event as one HTTP chunk."""
    text = fields if isinstance(fields, str) else json.dumps(fields)
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass(slots=True)
class Moments:
    """When one chat went through, `time.monotonic()`; that clock is the same in every process of a machine.

    Attributes:
        arrived: its request was read.
        started: it got a slot.
        ended: its answer was written; 0 before.
    """

    arrived: float
    started: float = 0.0
    ended: float = 0.0


class Model:
    """What all connections share.

    Args:
        kind: whose manners it has: "vllm", or "llamacpp", which tells how many slots it has.
        latency_s: seconds an answer takes from the moment it has a slot.
        slots: answers worked on at once; the others wait, first come first served.
        tokens: tokens of an answer, spread evenly over its latency.
        spread: part of the latency by which whole answers differ from it, up and down; without, those that
            begin together end together.
    """

    def __init__(self, kind: str, latency_s: float, slots: int, tokens: int, spread: float = 0.0) -> None:
        self.kind, self.latency_s, self.slots, self.tokens = kind, latency_s, slots, tokens
        self._spread, self._chance = spread, random.Random(1)
        self.waiting: deque[Chat] = deque()
        self.in_flight = self.most_in_flight = self.working = self.answered = 0
        self.moments: dict[str, Moments] = {}
        top: dict[str, object] = {"id": "chatcmpl-0", "created": 0, "model": "bench"}
        usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
        message = {"role": "assistant", "content": " word" * tokens}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.whole = _answer({**top, "object": "chat.completion", "choices": [choice], "usage": usage})
        piece = {**top, "object": "chat.completion.chunk"}
        delta = {"index": 0, "delta": {"content": " word"}, "finish_reason": None}
        self.piece = _event({**piece, "choices": [delta]})
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        self.end = _event({**piece, "choices": [last]}) + _event({**piece, "choices": [], "usage": usage})
        self.end += _event("[DONE]") + b"0\r\n\r\n"

    def answer_s(self) -> float:
        """Seconds the next whole answer takes."""
        if not self._spread:
            return self.latency_s
        return self.latency_s * (1 + self._spread * self._chance.uniform(-1, 1))

    def page(self, path: str) -> bytes:
        """The answer to a GET."""
        if path == "/v1/models":
            entry = {"id": "bench", "object": "model", "max_model_len": 4096}
            return _answer({"object": "list", "data": [entry]})
        if path == "/props":
            return _answer({"default_generation_settings": {"n_ctx": 4096}, "total_slots": self.slots})
        if path == "/metrics":
            running, waiting = self.working, len(self.waiting)
            names = {"vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting")}
            names["llamacpp"] = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
            return _answer("".join(map("{} {}\n".format, names[self.kind], (running, waiting))))
        if path == "/_counts":
            counts = {"answered": self.answered, "in_flight": self.in_flight}
            return _answer({**counts, "most_in_flight": self.most_in_flight})
        if path == "/_moments":
            return _answer({name: (at.arrived, at.started, at.ended) for name, at in self.moments.items()})
        if path == "/_forget":
            self.moments.clear()
            self.answered = self.most_in_flight = 0
        return _answer({"status": "ok"})


class Chat:
    """One chat on its way: waiting for a slot, then for its time."""

    __slots__ = ("connection", "ended", "left", "model", "moments", "streamed", "timer")

    def __init__(self, connection: "Connection", streamed: bool, name: str) -> None:
        self.connection, self.model, self.streamed = connection, connection.model, streamed
        self.timer: asyncio.TimerHandle | None = None
        self.ended = False
        self.left = self.model.tokens
        self.moments = self.model.moments[name] = Moments(time.monotonic())
        self.model.in_flight += 1
        self.model.most_in_flight = max(self.model.most_in_flight, self.model.in_flight)
        if self.model.working < self.model.slots:
            self.start()
        else:
            self.model.waiting.append(self)

    def start(self) -> None:
        """Take a slot."""
        model, loop = self.model, asyncio.get_running_loop()
        model.working += 1
        self.moments.started = time.monotonic()
        if not self.streamed:
            self.timer = loop.call_later(model.answer_s(), self.answer)
        else:
            self.connection.transport.write(_STREAM_HEAD)
            self.timer = loop.call_later(model.latency_s / model.tokens, self.next_token)

    def next_token(self) -> None:
        """Write a piece of a stream."""
        self.left -= 1
        self.connection.transport.write(self.model.piece)
        if self.left:
            loop, model = asyncio.get_running_loop(), self.model
            self.timer = loop.call_later(model.latency_s / model.tokens, self.next_token)
        else:
            self.answer()

    def answer(self) -> None:
        """Write the answer, or the end of the stream."""
        self.moments.ended = time.monotonic()
        self.model.answered += 1
        self.end()
        self.connection.answer(self.model.end if self.streamed else self.model.whole)

    def end(self) -> None:
        """Give the slot back: the answer is written, or nobody waits for it any more."""
        if self.ended:
            return
        self.ended = True
        self.model.in_flight -= 1
        if self.timer is None:
            self.model.waiting.remove(self)
            return
        self.timer.cancel()
        self.model.working -= 1
        if self.model.waiting:
            self.model.waiting.popleft().start()


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection; requests on it are answered one after another."""

    transport: asyncio.Transport

    def __init__(self, model: Model) -> None:
        self.model = model
        self.read = b""
        self.chat: Chat | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for the answer any more."""
        if self.chat is not None:
            self.chat.end()

    def data_received(self, data: bytes) -> None:
        """Answer a request as soon as it is complete."""
        self.read += data
        head, separator, rest = self.read.partition(b"\r\n\r\n")
        if self.chat is not None or not separator:
            return
        length = int(found[1]) if (found := _LENGTH.search(head)) else 0
        if len(rest) < length:
            return
        body, self.read = rest[:length], rest[length:]
        path = head.split(b" ", 2)[1].decode()
        if path == "/v1/chat/completions":
            name = found[1].decode() if (found := _REQUEST_ID.search(head)) else ""
            self.chat = Chat(self, bool(_STREAMED.search(body)), name)
        else:
            self.answer(self.model.page(path))

    def answer(self, content: bytes) -> None:
        """Write what ends an answer, and go on with what was read meanwhile."""
        self.chat = None
        self.transport.write(content)
        if self.read:
            self.data_received(b"")


async def serve(model: Model, port: int) -> None:
    """Listen until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(model), "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m bench.server", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--kind", choices=("vllm", "llamacpp"), default="vllm")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds an answer takes")
    parser.add_argument("--slots", type=int, default=100_000, help="answers worked on at once")
    parser.add_argument("--tokens", type=int, default=20, help="tokens of an answer")
    parser.add_argument(
        "--spread", type=float, default=0.0, help="how much answers differ, part of the latency"
    )
    given = parser.parse_args()
    model = Model(given.kind, given.latency, given.slots, given.tokens, given.spread)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(model, given.port))


if __name__ == "__main__":
    main()
