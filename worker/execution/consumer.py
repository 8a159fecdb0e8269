"""What Celery's consumer leaves in the log only, said to the producer as well."""

from collections.abc import Mapping
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.request import Request as CeleryRequest

from worker.errors import InvalidTask

logger = get_logger(__name__)


class Request(CeleryRequest):
    """A received message that knows its size: the task may refuse what should not travel through Redis."""

    _request_dict: dict[str, Any]
    _body: bytes | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidTaskError(f"its body is not [args, kwargs, embed] ({error})") from error
        if not isinstance(self.kwargs, Mapping):
            raise InvalidTaskError("its keyword arguments are not an object")
        self._request_dict["body_bytes"] = len(self._body or b"")


class Consumer(CeleryConsumer):
    """`worker_consumer`: a message that cannot become a task ends in FAILURE, not in silence."""

    connection_errors: tuple[type[Exception], ...]

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """No task of that name: say which there are."""
        name = str(message.headers.get("task", ""))
        known = sorted(task for task in self.app.tasks if not task.startswith("celery."))
        close = get_close_matches(name, known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(known)}."
        self._refuse(message, InvalidTask(f"There is no task {name!r}.", hint))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A message Celery itself cannot read as a task."""
        self._refuse(message, InvalidTask(f"The task message is malformed: {exc}."))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A body that is not JSON in UTF-8."""
        self._refuse(message, InvalidTask(f"The task message cannot be decoded: {exc}."))

    def _refuse(self, message: Any, error: InvalidTask) -> None:
        headers = message.headers or {}
        task_id = headers.get("id")
        logger.error("Refused %s[%s]: %s", headers.get("task"), task_id, error)
        if task_id:
            request = SimpleNamespace(
                id=task_id, errbacks=None, chord=headers.get("chord"), group=headers.get("group"),
                group_index=headers.get("group_index"), root_id=headers.get("root_id"), parent_id=None,
                delivery_info={}, correlation_id=task_id, reply_to=None, ignore_result=False,
            )  # fmt: skip
            self.app.backend.mark_as_failure(task_id, error, request=request)
        message.ack_log_error(logger, self.connection_errors)
