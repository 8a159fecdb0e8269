"""What the gateway answers when it does not do as asked: always OpenAI's error object.

{"error": {"message": …, "type": …, "param": …, "code": …}}
"""

import math
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from worker.contracts.openai import Refusal, refusal_of
from worker.delivery.sending import TooMuch
from worker.delivery.states import Update
from worker.errors import InputUnavailable, TaskError

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
        self.body = Refusal(status, message, kind, code, param).body


def not_found(what: str) -> ApiError:
    """There is none, or it is somebody else's: nobody is to know which."""
    return ApiError(404, f"There is no {what}.", "not_found")


def unavailable(message: str, code: str) -> ApiError:
    """For what does not work now; the caller is told when to come back."""
    headers = {"Retry-After": str(_RETRY_AFTER_S)}
    return ApiError(503, message, code, kind="server_error", headers=headers)


def gone() -> ApiError:
    """The caller went away; nobody gets this."""
    return ApiError(499, "The caller went away.", "cancelled")


def of_task_error(error: TaskError) -> ApiError:
    """For an error found here."""
    return _of(refusal_of(type(error).__name__, str(error)))


def of_storage(error: InputUnavailable) -> ApiError:
    """For bytes that cannot be kept or read: the disk is full, or the store is away."""
    if error.retryable:
        return unavailable(str(error), "storage_away")
    return ApiError(507, str(error), "storage_full", kind="server_error")


def of_failure(update: Update) -> ApiError:
    """For a task that has no result."""
    return _of(refusal_of(update.error_type, update.error))


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


def _of(why: Refusal) -> ApiError:
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if why.status in {429, 503} else None
    return ApiError(why.status, why.message, why.code, kind=why.kind, param=why.param, headers=headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: these errors, and those any route may have."""
    return {status: {"model": ErrorBody} for status in (*statuses, 400, 401, 503)}


async def on_api_error(_request: Request, error: Exception) -> JSONResponse:
    """For FastAPI."""
    if not isinstance(error, ApiError):
        raise error
    return answer(error)
