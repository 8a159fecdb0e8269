"""OpenAI's requests as tasks, and what became of tasks as OpenAI answers.

The gateway answers with it what is asked over HTTP, and a batch the lines of its file.
"""

import base64
import re
import struct
import time
from dataclasses import dataclass

from worker.contracts import CONTRACTS
from worker.contracts.base import Json
from worker.contracts.llm import ChatArguments
from worker.errors import InvalidTask

CHAT_URL, EMBEDDINGS_URL, TASK_URL = "/v1/chat/completions", "/v1/embeddings", "/v1/tasks/"

_TASKS = {CHAT_URL: "llm.chat", EMBEDDINGS_URL: "llm.embed"}
#: Fields that say how an answer is handed over, and not what is asked of the model.
_OURS = frozenset({"stream", "stream_options", "service_tier", "store"})
#: `finish_reason`s of ours that OpenAI has no name for.
_FINISH = {"repetition": "length"}
#: What a task's error is in HTTP: status, and OpenAI's type and code.
_ERRORS: dict[str, tuple[int, str, str | None]] = {
    "InvalidTask": (400, "invalid_request_error", None),
    "InputTooLarge": (413, "invalid_request_error", "input_too_large"),
    "InputUnavailable": (400, "invalid_request_error", "input_unavailable"),
    "ForbiddenInput": (400, "invalid_request_error", "forbidden_input"),
    "ContextLengthExceeded": (400, "invalid_request_error", "context_length_exceeded"),
    "BackendRejected": (400, "invalid_request_error", "backend_rejected"),
    "BackendUnavailable": (503, "server_error", "backend_unavailable"),
    "DeadlineExceeded": (504, "server_error", "deadline_exceeded"),
    "OutputInvalid": (502, "server_error", "output_invalid"),
    "OutputRunaway": (502, "server_error", "output_runaway"),
    "DeadLettered": (503, "server_error", "dead_lettered"),
}
#: Errors that are about a field begin with its name.
_ABOUT_A_FIELD = {"InvalidTask", "InputTooLarge", "InputUnavailable", "ForbiddenInput"}
_FIELD = re.compile(r"`([\w.]+)`")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a task has no result, as HTTP says it.

    Attributes:
        status: HTTP status.
        message: for people.
        kind: OpenAI's error type.
        code: for programs.
        param: the field that is wrong.
    """

    status: int
    message: str
    kind: str
    code: str | None = None
    param: str | None = None

    @property
    def body(self) -> Json:
        """OpenAI's error object."""
        said = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": said}


def refusal_of(error_type: str, message: str) -> Refusal:
    """For a task that ended with an error of this name; "" for one that was cancelled."""
    if not error_type:
        return Refusal(409, "The task was cancelled.", "invalid_request_error", "cancelled")
    status, kind, code = _ERRORS.get(error_type, (500, "server_error", None))
    field = _FIELD.match(message) if error_type in _ABOUT_A_FIELD else None
    return Refusal(status, message, kind, code, field.group(1) if field else None)


def task_of(url: str) -> str:
    """The task that does what is asked at a URL.

    Raises:
        InvalidTask: nothing is done there.
    """
    task = _TASKS.get(url) or (url.removeprefix(TASK_URL) if url.startswith(TASK_URL) else "")
    if task not in CONTRACTS:
        known = ", ".join([*_TASKS, *(TASK_URL + name for name in CONTRACTS)])
        raise InvalidTask(f"`url` {url[:200]!r} is not one of {known}.")
    return task


def arguments_of(url: str, body: Json) -> Json:
    """The arguments of the task that answers a request; checked.

    Raises:
        InvalidTask: naming every field that is wrong.
    """
    task = task_of(url)
    arguments = body
    if url == CHAT_URL:
        arguments = _chat_arguments(body)
    elif url == EMBEDDINGS_URL:
        arguments = {name: value for name, value in body.items() if name not in {"encoding_format", "user"}}
        if (encoding := body.get("encoding_format")) not in (None, "float", "base64"):
            raise InvalidTask(f"`encoding_format` is {encoding!r}, not 'float' or 'base64'.")
    CONTRACTS[task].parse(arguments)
    return arguments


def answer_of(url: str, body: Json, task_id: str, result: Json) -> Json:
    """The answer to a request.

    Args:
        url: where it went.
        body: what was asked.
        task_id: of the task that did it.
        result: the task's.
    """
    if url == CHAT_URL:
        choices = [
            {**choice, "finish_reason": finish_reason(choice["finish_reason"])}
            for choice in result["choices"]
        ]
        answer = {"created": int(time.time()), **_without_meta(result)}
        return {**answer, "id": f"chatcmpl-{task_id}", "choices": choices}
    if url == EMBEDDINGS_URL:
        answer = {"object": "list", **_without_meta(result)}
        if body.get("encoding_format") == "base64":
            answer["data"] = [{**one, "embedding": _packed(one["embedding"])} for one in answer["data"]]
        return answer
    return result


def finish_reason(ours: str | None) -> str | None:
    """As OpenAI names it."""
    return _FINISH.get(ours, ours) if ours else ours


def _chat_arguments(body: Json) -> Json:
    known = ChatArguments.model_fields.keys() - {"options", "extra_body"}
    arguments: Json = {name: value for name, value in body.items() if name in known and value is not None}
    more = {name: value for name, value in body.items() if name not in known | _OURS}
    if more:
        arguments["extra_body"] = more
    streamed = body.get("stream") or False
    if not isinstance(streamed, bool):
        raise InvalidTask("`stream` is true or false.")
    if not isinstance(body.get("stream_options") or {}, dict):
        raise InvalidTask("`stream_options` is an object.")
    return {**arguments, "options": {"stream": True}} if streamed else arguments


def _without_meta(result: Json) -> Json:
    return {name: value for name, value in result.items() if name != "meta"}


def _packed(numbers: list[float]) -> str:
    """Little-endian 32-bit floats in base64, as OpenAI packs them."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
