"""What the gateway answers when it does not do as asked: always OpenAI's error object.

{"error": {"message": …, "type": …, "param": …, "code": …}}
"""

import math
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from worker.delivery.sending import TooMuch
from worker.delivery.states import Update
from worker.errors import TaskError

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
_TOO_MUCH = {
    "queue": "The queue is full.",
    "in_flight": "Too many of your tasks are under way.",
    "requests": "You have sent too many requests within a minute.",
    "tokens": "You have sent too many tokens within a minute.",
}
#: Seconds after which to come back where nobody knows better.
_RETRY_AFTER_S = 5


class ErrorObject(BaseModel):
    """Why not."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """OpenAI's error answer."""

    error: ErrorObject


class ApiError(Exception):
    """A request that is not done.

    Args:
        status: HTTP status.
        message: what is wrong and what to do.
        code: for programs.
        kind: OpenAI's error type.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def not_found(what: str) -> ApiError:
    """There is none, or it is somebody else's: nobody is to know which."""
    return ApiError(404, f"There is no {what}.", "not_found")


def of_task_error(error: TaskError) -> ApiError:
    """For an error found here."""
    return _of(type(error).__name__, str(error))


def of_failure(update: Update) -> ApiError:
    """For a task that has no result."""
    if update.state == "REVOKED":
        return ApiError(409, "The task was cancelled.", "cancelled")
    return _of(update.error_type, update.error)


def of_too_much(error: TooMuch) -> ApiError:
    """For a task there is no room for."""
    seconds = math.ceil(error.retry_after_s) or _RETRY_AFTER_S
    kind = "server_error" if error.what == "queue" else "rate_limit_error"
    return ApiError(
        429,
        f"{_TOO_MUCH[error.what]} Try again in {seconds} s.",
        f"{error.what}_limit" if error.what != "queue" else "queue_full",
        kind=kind,
        headers={"Retry-After": str(seconds)},
    )


def answer(error: ApiError) -> JSONResponse:
    """As a response."""
    return JSONResponse(error.body, error.status, headers=error.headers)


def _of(kind: str, message: str) -> ApiError:
    status, openai_type, code = _ERRORS.get(kind, (500, "server_error", None))
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if status in {429, 503} else None
    return ApiError(status, message, code, kind=openai_type, headers=headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: these errors, and those any route may have."""
    return {status: {"model": ErrorBody} for status in (*statuses, 400, 401, 503)}


async def on_api_error(_request: Request, error: Exception) -> JSONResponse:
    """For FastAPI."""
    if not isinstance(error, ApiError):
        raise error
    return answer(error)
