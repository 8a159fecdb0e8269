"""The HTTP client for one OpenAI-compatible server: a request in, a checked answer or a clear error out.

It never retries; the fleet above it does.
"""

import asyncio
import json
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from worker.backends import failures
from worker.backends.assembly import Assembly, pieces_of
from worker.backends.base import BackendOptions, Json, OnChunk
from worker.backends.sse import EventParser
from worker.errors import BackendRejected, InvalidTask

#: Seconds to open a connection.
CONNECT_TIMEOUT_S = 5.0
#: Seconds an idle connection is kept: under the 5 s after which uvicorn and llama.cpp close theirs.
KEEPALIVE_S = 3.5
#: Most of an error answer that is read, bytes.
ERROR_BODY_BYTES = 64 * 1024

#: A longer request body is sent in pieces of this, that other tasks may go on meanwhile.
PIECE_BYTES = 256 * 1024

_BROKEN = (aiohttp.ClientError, OSError)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of one server.

    Attributes:
        body: the JSON object.
        ttft_s: seconds from sending to the first token; None where nothing told.
        total_s: seconds from sending to the last byte.
    """

    body: Json
    ttft_s: float | None
    total_s: float


@dataclass(frozen=True, slots=True)
class Page:
    """A small answer of any status, for probing.

    Attributes:
        status: HTTP status.
        headers: of the answer; names in any case.
        body: its beginning.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON, None where it is not."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class OpenAIClient:
    """One server.

    Args:
        url: base URL without /v1.
        options: key, timeout and limits.
    """

    def __init__(self, url: str, options: BackendOptions) -> None:
        self.url = url
        self.options = options
        #: Names the server lists, for messages; set by whoever discovers them.
        self.models: Sequence[str] = ()
        #: Whether the server refuses an `x-request-id` that is not a UUID.
        self.request_ids_are_uuids = False
        #: False for a server that may close a connection after an answer without saying so.
        self.keep_alive = True
        self._headers = {"accept-encoding": "identity", "user-agent": "kc-worker"}
        if options.api_key:
            self._headers["authorization"] = f"Bearer {options.api_key}"
        self._opened: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close all connections."""
        if self._opened is not None:
            await self._opened.close()

    async def chat(
        self,
        request: Json,
        *,
        request_id: str,
        timeout_s: float,
        stream: bool = False,
        on_chunk: OnChunk | None = None,
    ) -> Answer:
        """POST /v1/chat/completions; the answer is the same whole, with `stream`, and with `on_chunk`.

        But for one thing: a streamed answer that runs away is cut, its `finish_reason` "repetition". With a
        `prompt` instead of messages it goes to /v1/completions; the answer has the shape of a chat's.

        Raises:
            BackendRejected, ContextLengthExceeded, InputTooLarge, BackendUnavailable: see `failures`.
            InvalidTask: the request cannot be written as JSON.
        """
        request = {key: value for key, value in request.items() if key not in {"stream", "stream_options"}}
        path = "/v1/completions" if "prompt" in request else "/v1/chat/completions"
        if stream or on_chunk is not None:
            streamed = {**request, "stream": True, "stream_options": {"include_usage": True}}
            if (answer := await self._stream(path, streamed, request_id, timeout_s, on_chunk)) is not None:
                return answer
        answer = await self.post(path, request, wanted="choices", request_id=request_id, timeout_s=timeout_s)
        _hand_over(answer.body, on_chunk)
        return Answer(answer.body, _ttft_from_timings(answer), answer.total_s)

    async def post(
        self, path: str, payload: Json, *, wanted: str, request_id: str, timeout_s: float
    ) -> Answer:
        """POST JSON and return the answer, an object that has the key `wanted`; errors as for `chat`."""
        started = time.monotonic()
        async with self._exchange("POST", path, payload, request_id, timeout_s) as response:
            body = await self._read_json(response, wanted)
        return Answer(body, None, time.monotonic() - started)

    async def get(self, path: str, timeout_s: float) -> Page:
        """GET a small page of any status.

        Raises:
            BackendUnavailable: no answer, or not within `timeout_s`.
        """
        async with self._exchange("GET", path, None, "", timeout_s, any_status=True) as response:
            body = await self._read(response, ERROR_BODY_BYTES, cut=True)
            return Page(response.status, response.headers, body)

    async def model_list(self, timeout_s: float) -> list[Json]:
        """The entries of GET /v1/models.

        Raises:
            BackendRejected, BackendUnavailable: as `failures` maps them.
        """
        async with self._exchange("GET", "/v1/models", None, "", timeout_s) as response:
            entries = (await self._read_json(response, "data"))["data"]
        return [entry for entry in entries if isinstance(entry, dict) and "id" in entry]

    async def _stream(
        self, path: str, payload: Json, request_id: str, timeout_s: float, on_chunk: OnChunk | None
    ) -> Answer | None:
        """The answer from a stream; None where only a whole answer will do.

        llama-cpp-python reports an error in a stream by ending it without a word, and in its default settings
        ends a stream early, as if it were done, when another request waits.
        """
        started = time.monotonic()
        first_at: float | None = None
        assembly, done = Assembly(), False
        async with self._exchange("POST", path, payload, request_id, timeout_s) as response:
            if "event-stream" not in response.headers.get("content-type", ""):
                body = await self._read_json(response, "choices")  # it does not stream
                _hand_over(body, on_chunk)
                return Answer(body, None, time.monotonic() - started)
            parser, size, ended = EventParser(), 0, False
            while not ended and not assembly.ran_away:  # leaving before its end closes the connection
                piece = await response.content.readany()
                ended = not piece
                size += len(piece)
                if size > self.options.max_response_bytes:
                    raise failures.too_long(self.url, self.options.max_response_bytes)
                for text in parser.close() if ended else parser.feed(piece):
                    event = self._event(text, response)
                    done = done or event is None
                    for chunk in assembly.add(event or {}):
                        first_at = first_at or time.monotonic()
                        if on_chunk is not None:
                            on_chunk(chunk)
        if assembly.empty or (done and not assembly.finished and on_chunk is None):
            return None
        if not assembly.finished:
            raise failures.broke_off(self.url)
        ttft_s = None if first_at is None else first_at - started
        return Answer(assembly.body(), ttft_s, time.monotonic() - started)

    def _event(self, text: str, response: aiohttp.ClientResponse) -> Json | None:
        """A parsed event; None for [DONE]."""
        if text.strip() == "[DONE]":
            return None
        try:
            event = json.loads(text)
        except ValueError:
            event = None
        if isinstance(event, dict) and event.get("error"):
            raise failures.from_stream_event(self.url, event, self.models)
        if not isinstance(event, dict) or not isinstance(event.get("choices"), list):
            raise failures.not_an_answer(
                self.url, response.headers, text.encode(), "a piece of a chat completion"
            )
        return _as_chat(event, "delta") if _completes(response) else event

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        path: str,
        payload: Json | None,
        request_id: str,
        timeout_s: float,
        *,
        any_status: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and lend its response; leaving early, cancelled or not, closes the connection."""
        headers = {"x-request-id": self._request_id(request_id)} if request_id else {}
        if not self.keep_alive:
            headers["connection"] = "close"
        content: bytes | AsyncIterator[bytes] | None = None
        if payload is not None:
            content = _encode(payload)
            headers["content-type"] = "application/json"
            if len(content) > PIECE_BYTES:
                headers["content-length"] = str(len(content))
                content = _in_pieces(content)
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._session().request(
                    method, self.url + path, data=content, headers=headers, allow_redirects=False
                )
                try:
                    if not any_status and response.status != 200:
                        body = await self._read(response, ERROR_BODY_BYTES, cut=True)
                        raise failures.from_response(
                            self.url, response.status, response.headers, body, self.models
                        )
                    yield response
                finally:
                    response.close()  # one read to its end has given its connection back already
        except TimeoutError as error:
            if isinstance(error, aiohttp.ClientError):
                raise failures.from_transport(self.url, error) from error
            raise failures.timed_out(self.url, timeout_s) from None
        except _BROKEN as error:
            raise failures.from_transport(self.url, error) from error

    def _session(self) -> aiohttp.ClientSession:
        """The connections; opened in the loop that uses them."""
        if self._opened is None:
            secure = ssl.create_default_context() if self.url.startswith("https") else True
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=secure),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._opened

    def _request_id(self, task_id: str) -> str:
        if not self.request_ids_are_uuids:
            return task_id
        try:
            return str(uuid.UUID(task_id))
        except ValueError:  # a producer may name its tasks as it likes
            return str(uuid.uuid5(uuid.NAMESPACE_OID, task_id))

    async def _read(self, response: aiohttp.ClientResponse, limit_bytes: int, *, cut: bool = False) -> bytes:
        """The body up to the limit; beyond it an error, or with `cut` just the beginning."""
        pieces, size = [], 0
        while piece := await response.content.readany():
            pieces.append(piece)
            size += len(piece)
            if size > limit_bytes:
                if cut:
                    break
                raise failures.too_long(self.url, limit_bytes)
        return b"".join(pieces)

    async def _read_json(self, response: aiohttp.ClientResponse, wanted: str) -> Json:
        limit_bytes = self.options.max_response_bytes
        if int(response.headers.get("content-length", 0)) > limit_bytes:
            raise failures.too_long(self.url, limit_bytes)
        raw = await self._read(response, limit_bytes)
        try:
            body = json.loads(raw) if "json" in response.headers.get("content-type", "") else None
        except ValueError:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get(wanted), _SHAPES.get(wanted, object)):
            raise failures.not_an_answer(self.url, response.headers, raw, f"a JSON object with `{wanted}`")
        if wanted == "choices" and _completes(response):
            body = _as_chat(body, "message")
        if wanted == "choices" and not _is_completion(body):
            raise BackendRejected(
                f"{self.url} answered a chat completion without a message.", failures.NOT_A_MODEL_SERVER
            )
        return body


_SHAPES: dict[str, type] = {"choices": list, "data": list, "tokens": list, "count": int}


def _encode(payload: Json) -> bytes:
    try:
        text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTask(
            f"The text is not valid Unicode: {error.reason} ({error.object[error.start]!a})."
        ) from None
    except (TypeError, ValueError) as error:
        raise InvalidTask(f"The request cannot be written as JSON: {error}.") from None


async def _in_pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]


def _completes(response: aiohttp.ClientResponse) -> bool:
    return response.url.path.endswith("/v1/completions")


def _as_chat(body: Json, field: str) -> Json:
    """An answer of /v1/completions, or a piece of it, as one of a chat; what is none stays as it is."""
    for choice in body["choices"]:
        if isinstance(choice, dict) and isinstance(choice.get("text"), str):
            choice[field] = {"role": "assistant", "content": choice.pop("text")}
    return {**body, "object": "chat.completion"}


def _is_completion(body: Json) -> bool:
    choices = body["choices"]
    return bool(choices) and all(
        isinstance(choice, dict) and isinstance(choice.get("message"), dict) for choice in choices
    )


def _hand_over(body: Json, on_chunk: OnChunk | None) -> None:
    """A whole answer, to a caller who may have wanted it in pieces."""
    if on_chunk is not None:
        for chunk in pieces_of(body):
            on_chunk(chunk)


def _ttft_from_timings(answer: Answer) -> float | None:
    """llama.cpp says how long it generated: all before that was waiting and reading the prompt."""
    timings = answer.body.get("timings")
    generated_ms = timings.get("predicted_ms") if isinstance(timings, dict) else None
    return max(0.0, answer.total_s - generated_ms / 1000) if isinstance(generated_ms, int | float) else None
