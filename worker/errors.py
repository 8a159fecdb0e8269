"""Every way a task can end badly, in one tree.

    TaskError
    ├── InvalidTask             a field is missing, misspelt or out of range
    │   ├── InputTooLarge       more bytes than the limits allow
    │   ├── InputUnavailable    a referenced input cannot be read (retryable: the database is away)
    │   └── ForbiddenInput      a referenced input is outside what is allowed
    ├── ContextLengthExceeded   the prompt and answer do not fit the model
    ├── BackendError
    │   ├── BackendRejected     the model server refuses, and would refuse again
    │   └── BackendUnavailable  the model server cannot answer now      (retryable)
    ├── DeadlineExceeded        `options.deadline_s` passed
    ├── OutputInvalid           the answer does not satisfy the schema after every repair
    ├── OutputRunaway           the answer repeats itself without end
    └── DeadLettered            delivered too often without an outcome

Each class says whether trying again can help (`retryable`) and each message ends with the remedy.
The class name is public: producers see it as the exception type of a FAILURE.
"""

from typing import ClassVar


class TaskError(Exception):
    """A task cannot succeed as asked.

    Args:
        message: what is wrong, for the person who reads it.
        hint: what to do about it; the class's own hint where none is given.
    """

    retryable: bool = False
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, hint: str | None = None) -> None:
        remedy = self.default_hint if hint is None else hint
        # Celery builds the error again from its message, which ends with the remedy already.
        super().__init__(message if message.endswith(remedy) else f"{message} {remedy}")


class InvalidTask(TaskError):
    """The task's arguments are wrong; the message names the field."""


class InputTooLarge(InvalidTask):
    """An input has more bytes than the limit."""

    default_hint = 'Pass large text as {"path": …} or {"blob": …}, or split it.'


class InputUnavailable(InvalidTask):
    """A referenced input, or what is remembered of earlier tasks, does not exist or cannot be read.

    Args:
        message: what is wrong.
        hint: what to do about it.
        retryable: whether it may pass: the database is away.
    """

    def __init__(self, message: str, hint: str | None = None, *, retryable: bool = False) -> None:
        super().__init__(message, hint)
        self.retryable = retryable


class ForbiddenInput(InvalidTask):
    """A referenced input is not one this worker may open."""


class ContextLengthExceeded(TaskError):
    """Prompt and answer together are longer than the model's context."""

    default_hint = "Shorten the messages, lower max_tokens, or serve the model with a longer context."


class BackendError(TaskError):
    """The model server did not give a usable answer."""


class BackendRejected(BackendError):
    """The model server refuses this request and would refuse it again."""


class BackendUnavailable(BackendError):
    """The model server cannot answer now.

    Args:
        message: what is wrong.
        hint: what to do about it.
        retry_after_s: how long the server asked to be left alone, in seconds.
        server_down: whether the server as a whole is out (unreachable or loading), not only this request.
    """

    retryable = True
    default_hint = "Check the server with `kc-worker status`."

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        *,
        retry_after_s: float | None = None,
        server_down: bool = False,
    ) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s
        self.server_down = server_down


class DeadlineExceeded(TaskError):
    """The task's own deadline passed before there was an answer."""

    default_hint = "Raise options.deadline_s, or look at the queue with `kc-worker status`."


class OutputInvalid(TaskError):
    """The model's answer is not what was asked for, after every repair."""

    default_hint = "Simplify the schema, raise max_repairs or max_tokens, or use a larger model."


class OutputRunaway(TaskError):
    """The model repeats itself without end."""

    default_hint = "Raise frequency_penalty or temperature, or lower max_tokens."


class DeadLettered(TaskError):
    """The task was delivered too often without an outcome."""

    default_hint = "See why with `kc-worker dlq show`, then replay it."


class SettingsError(Exception):
    """A setting is missing, misspelt or out of range; the message names it."""


class LocalError(Exception):
    """A program that should run on this machine does not; the message says which and why."""


class ModelError(Exception):
    """A model cannot be downloaded or is not usable; the message says why."""
