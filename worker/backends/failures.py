"""What every failure of a model server means: one table, for all servers.

The wording of the three servers was read in their sources: llama.cpp server b11549, llama-cpp-python 0.3.36,
vLLM 0.32.
"""

import json
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from time import time

import aiohttp

from worker.backends.base import Json
from worker.errors import (
    BackendError,
    BackendRejected,
    BackendUnavailable,
    ContextLengthExceeded,
    InputTooLarge,
    TaskError,
)

#: Longest piece of a server's own words repeated in an error, characters.
REASON_LENGTH = 500

NOT_A_MODEL_SERVER = (
    "LLM_SERVER_URL does not look like an OpenAI-compatible server: check its host, port and path."
)
WRONG_KEY = "Set LLM_API_KEY to the key the server was started with."

_CONTEXT = re.compile(
    r"exceed_context_size_error|exceeds? the available context size"  # llama.cpp server
    r"|input is too large to process"  # its embeddings, longer than one batch
    r"|context_length_exceeded|exceed context window"  # llama-cpp-python
    r"|maximum context length|greater than max_model_len"  # vLLM
    r"|(?:longer than|exceeds?) the maximum\s+model length",
    re.IGNORECASE,
)
#: llama-cpp-python answers 500 to requests that are wrong in themselves.
_REFUSED_WITH_500 = re.compile(
    r"validation errors?:|with embedding=True|grammar|does not support", re.IGNORECASE
)
_LOADING = re.compile(r"loading", re.IGNORECASE)
_UNKNOWN_MODEL = re.compile(
    r"model.{0,200}(?:does not exist|not found)|model_not_found", re.IGNORECASE | re.DOTALL
)


def from_response(
    url: str, status: int, headers: Mapping[str, str], body: bytes, models: Sequence[str] = ()
) -> TaskError:
    """The error an HTTP answer other than 200 stands for.

    Args:
        url: base URL of the server, named in the message.
        status: HTTP status.
        headers: of the answer; `Retry-After` and `Location` are read.
        body: of the answer, or its beginning.
        models: names the server is known to serve.
    """
    said = f"{url} answered {status}: {server_reason(body) or 'without a reason'}."
    text = body[:20_000].decode("utf-8", "replace")
    if status in {400, 413, 422, 500} and _CONTEXT.search(text):
        return ContextLengthExceeded(said)
    if status in {429, 503} or (status >= 500 and status != 501 and not _REFUSED_WITH_500.search(text)):
        return _unavailable(url, status, headers, text, said)
    return _rejected(url, status, headers, body, said, models)


def _unavailable(
    url: str, status: int, headers: Mapping[str, str], text: str, said: str
) -> BackendUnavailable:
    if status == 503 and _LOADING.search(text):
        return BackendUnavailable(f"{url} is still loading its model.", "Wait for it.", server_down=True)
    if status in {429, 503}:  # full: 0 where it does not say for how long
        return BackendUnavailable(said, retry_after_s=retry_after_s(headers) or 0.0)
    return BackendUnavailable(said)


def _rejected(
    url: str, status: int, headers: Mapping[str, str], body: bytes, said: str, models: Sequence[str]
) -> TaskError:
    if 300 <= status < 400:
        return BackendRejected(
            f"{url} redirects to {headers.get('location')}.", "Put that into LLM_SERVER_URL."
        )
    if status in {401, 403}:
        return BackendRejected(said, WRONG_KEY)
    if status == 413:
        return InputTooLarge(said, "Send less, or raise the limit of the server or the proxy before it.")
    if is_html(headers, body):
        return BackendRejected(f"{url} answered {status} with an HTML page.", NOT_A_MODEL_SERVER)
    if _UNKNOWN_MODEL.search(server_reason(body)):
        return unknown_model(said, models)
    return BackendRejected(said, NOT_A_MODEL_SERVER if status == 404 else None)


def from_stream_event(url: str, event: Json, models: Sequence[str] = ()) -> TaskError:
    """The error a server reports inside a stream: `{"error": {"code": 400, "message": …}}`."""
    error = event.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return from_response(url, status, {}, json.dumps(event).encode(), models)


def from_transport(url: str, error: BaseException) -> BackendUnavailable:
    """The error a broken connection stands for."""
    for kind, message, hint, down in _BROKEN_CONNECTIONS:
        if isinstance(error, kind):
            detail = getattr(error, "os_error", None) or getattr(error, "message", "") or error
            return BackendUnavailable(
                message.format(url=url, detail=str(detail)[:200]), hint, server_down=down
            )
    return BackendUnavailable(f"The connection to {url} failed ({type(error).__name__}: {error}).")


#: Special before general: exception, message, hint, whether the server as a whole is out.
_BROKEN_CONNECTIONS: tuple[tuple[type[BaseException], str, str | None, bool], ...] = (
    (
        aiohttp.ClientConnectorDNSError,
        "The host name of {url} cannot be resolved ({detail}).",
        "Check LLM_SERVER_URL.",
        True,
    ),
    (
        aiohttp.ClientConnectorError,
        "Nothing answers at {url} ({detail}).",
        "Start the server or correct LLM_SERVER_URL.",
        True,
    ),
    (aiohttp.ConnectionTimeoutError, "{url} does not accept connections.", "Check LLM_SERVER_URL.", True),
    (aiohttp.ClientPayloadError, "{url} broke off in the middle of its answer.", None, False),
    (aiohttp.ServerDisconnectedError, "{url} closed the connection without an answer.", None, False),
    (ConnectionError, "{url} closed the connection without an answer.", None, False),
    (aiohttp.ClientResponseError, "{url} does not speak HTTP ({detail}).", NOT_A_MODEL_SERVER, False),
    (TimeoutError, "{url} stopped answering.", None, False),
)


def timed_out(url: str, timeout_s: float) -> BackendUnavailable:
    """No whole answer within LLM_TIMEOUT."""
    return BackendUnavailable(
        f"{url} gave no whole answer within LLM_TIMEOUT ({timeout_s:g} s).",
        "Raise LLM_TIMEOUT, lower max_tokens, or give the server more power.",
    )


def broke_off(url: str) -> BackendUnavailable:
    """A stream ended before its answer did."""
    return BackendUnavailable(f"{url} broke off in the middle of its stream.")


def too_long(url: str, limit_bytes: int) -> BackendRejected:
    """The answer passed the limit and was left unread."""
    return BackendRejected(
        f"{url} answered with more than {limit_bytes:,} bytes, which is the limit of one answer.",
        f"Lower max_tokens; if nobody asked for this much, {NOT_A_MODEL_SERVER}",
    )


def not_an_answer(url: str, headers: Mapping[str, str], body: bytes, wanted: str) -> BackendError:
    """A 200 whose body is not what was asked for: HTML, another content type, broken or other JSON."""
    if _is_half_an_object(body):
        return BackendUnavailable(f"{url} broke off in the middle of its answer.")
    if is_html(headers, body):
        return BackendRejected(f"{url} answered with an HTML page.", NOT_A_MODEL_SERVER)
    kind = headers.get("content-type", "no content type")
    shown = body[:80].decode("utf-8", "replace")
    return BackendRejected(
        f"{url} answered {shown!r} ({kind}) where {wanted} was expected.", NOT_A_MODEL_SERVER
    )


def unknown_model(message: str, models: Sequence[str]) -> BackendRejected:
    """The model asked for is not served; the hint names those that are."""
    served = ", ".join(models) if models else "see GET /v1/models"
    return BackendRejected(message, f"Set `model` or LLM_MODEL to one it serves: {served}.")


def unknown_adapter(url: str, adapter: str, names: Sequence[str], flags: str) -> BackendRejected:
    """The server has no LoRA adapter of that name; the hint says which it has, or how it gets one."""
    there = f"It has: {', '.join(names)}." if names else f"It has none; start it with {flags}."
    return BackendRejected(f"{url} has no LoRA adapter {adapter!r}.", there)


def is_html(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether an answer is a web page."""
    return "html" in headers.get("content-type", "") or body[:100].lstrip()[:1] == b"<"


def _is_half_an_object(body: bytes) -> bool:
    """Whether a JSON object begins here and never ends, as where a wrong content-length cuts it."""
    if not body.lstrip().startswith(b"{"):
        return False
    try:
        json.loads(body)
    except UnicodeDecodeError:
        return True
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
    return False


def server_reason(body: bytes) -> str:
    """The server's own words, cut; every server wraps them differently."""
    try:
        document = json.loads(body)
    except ValueError:
        return "" if is_html({}, body) else _cut(body.decode("utf-8", "replace"))
    found = document
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return _cut(found if isinstance(found, str) else json.dumps(found, ensure_ascii=False))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds from now; it may be a number or a date."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, TypeError):
        return None


def _cut(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= REASON_LENGTH else f"{text[:REASON_LENGTH]} …"
