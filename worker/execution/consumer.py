"""Celery's consumer, and what it leaves in the log only said to the producer as well."""

import signal
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime
from difflib import get_close_matches
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal
from weakref import WeakValueDictionary

from celery.exceptions import CPendingDeprecationWarning, InvalidTaskError
from celery.utils.functional import maybe_list
from celery.utils.log import get_logger
from celery.worker import state as worker_state
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.control import control_command
from celery.worker.request import Request as CeleryRequest
from kombu.asynchronous import Hub
from kombu.exceptions import ContentDisallowed, DecodeError

from worker.errors import DeadLettered, InvalidTask, TaskError
from worker.execution.bridge import process_loop
from worker.execution.inbox import DELIVERY, Inbox

logger = get_logger(__name__)

# Celery recommends the setting that ends what runs when a connection is lost; here it is not lost work.
warnings.filterwarnings("ignore", category=CPendingDeprecationWarning, module="celery.worker.consumer")

#: What this process has taken, by token: what runs and what is about to. A task may be here twice: taken over
#: from this very process, which has not heard of it.
_requests: WeakValueDictionary[str, "Request"] = WeakValueDictionary()


class Request(CeleryRequest):
    """A received message that knows its size: the task may refuse what should not travel through Redis."""

    id: str
    _app: Any
    _message: Any
    _context: Any
    _on_ack: Callable[..., None]
    _on_reject: Callable[..., None]
    _request_dict: dict[str, Any]
    _body: Any
    _payload: Any
    _content_type: str | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidTaskError(f"its body is not [args, kwargs, embed] ({error})") from error
        if not isinstance(self.kwargs, Mapping):
            raise InvalidTaskError("its keyword arguments are not an object")
        self._request_dict["body_bytes"] = len(self._body or b"")
        # Decoded by now; the tracer takes a body without a content type as it is.
        self._body, self._content_type = self._payload, None
        _requests[self._message.delivery_tag] = self

    def on_failure(self, *args: Any, **kwargs: Any) -> None:
        """As Celery's, but the outcome is stored before the message is acknowledged."""
        due: list[Callable[[], None]] = []
        acknowledge, reject = self._on_ack, self._on_reject
        self._on_ack = lambda *given: due.append(partial(acknowledge, *given))
        self._on_reject = lambda *given: due.append(partial(reject, *given))
        try:
            super().on_failure(*args, **kwargs)
        finally:
            for act in due:
                act()

    def maybe_expire(self) -> Literal[True] | None:
        """Whether nobody wants the task any more, by Redis' clock."""
        inbox: Inbox = self._app.conf.inbox
        expires: datetime | None = self.expires
        if expires is None or inbox.now.astimezone(expires.tzinfo) <= expires:
            return None
        worker_state.revoked.add(self.id)
        return True


class Consumer(CeleryConsumer):
    """`worker_consumer`: tasks come by the inbox, and a message that cannot become one ends in FAILURE."""

    connection_errors: tuple[type[Exception], ...]
    strategies: dict[str, Callable[..., None]]
    on_task_message: set[Callable[..., None]]
    hub: Hub

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inbox: Inbox = self.app.conf.inbox
        self._inbox.hub = self.hub
        self._inbox.on_cancelled, self._inbox.on_lost = self.stop_cancelled, self.stop_lost
        self._store: Any = self.app.backend

    def create_task_handler(self, *_: Any) -> Callable[[Any], None]:
        """As Celery's, for messages that are acknowledged at any time and from any channel."""

        def on_task_received(message: Any) -> None:
            found = message.properties[DELIVERY]
            if found["mark"] == "dead":
                self._dead(message, found["deaths"])
                return
            payload = None
            try:
                name = message.headers["task"]
            except TypeError:
                self.on_unknown_message(None, message)
                return
            except KeyError:  # Celery's first protocol, which has everything in the body
                try:
                    payload = message.decode()
                    name = payload["task"]
                except (TypeError, KeyError):
                    self.on_unknown_message(payload, message)
                    return
                except Exception as error:  # noqa: BLE001 - whatever a decoder raises
                    self.on_decode_error(message, error)
                    return
            self._receive(name, payload, message, found)

        return on_task_received

    def _receive(self, name: str, payload: Any, message: Any, found: dict[str, Any]) -> None:
        token = found["token"]
        try:
            if name not in self.strategies:
                self.on_unknown_task(None, message, KeyError(name))
            elif found["mark"] == "done":
                self._done(message)
            else:
                self.strategies[name](
                    message,
                    payload,
                    lambda *_: self._inbox.acknowledge(token),
                    lambda _logger, _errors, requeue: self._rejected(token, requeue),
                    self.on_task_message,
                )
        except (InvalidTaskError, ContentDisallowed) as error:
            self.on_invalid_task(payload, message, error)
        except DecodeError as error:
            self.on_decode_error(message, error)

    def shutdown(self) -> None:
        """The last thing a worker does, warm or cold: what is not done goes back to its queue."""
        super().shutdown()
        self._inbox.close(process_loop())

    def stop_cancelled(self, task_id: str) -> None:
        """End a task that was cancelled: its outcome is REVOKED already."""
        for request in list(_requests.values()):
            if request.id == task_id and not request.acknowledged:
                request.terminate(self.pool, signal=signal.SIGTERM)

    def stop_lost(self, token: str) -> None:
        """End a delivery whose task was taken over; its outcome is not this one's to store."""
        if (request := _requests.get(token)) is not None and not request.acknowledged:
            logger.warning("Task %s was taken over: its lease ended before it was renewed", request.id)
            request.cancel(self.pool, signal=signal.SIGTERM, emit_retry=False)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """A message that names no task."""
        self._inbox.bury(message.delivery_tag, "It names no task.")

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

    def _rejected(self, token: str, requeue: bool) -> None:
        if requeue:
            self._inbox.reject(token)
        else:
            self._inbox.acknowledge(token)

    def _dead(self, message: Any, deaths: int) -> None:
        error = DeadLettered(f"{deaths} workers died while they had this task.")
        if (request := _request_of(message)) is not None:
            self._store.bury(error, request)
            self._fail(request, error)
        self._inbox.acknowledge(message.delivery_tag)

    def _done(self, message: Any) -> None:
        """A task that has its outcome: its worker died after storing it. Its chord may not know."""
        request = Request(message, app=self.app, task=self.app.tasks[message.headers["task"]])
        if request.chord:
            stored = self._store.get_task_meta(request.id)
            self._store.on_chord_part_return(request._context, stored["status"], stored["result"])  # noqa: SLF001
        self._inbox.acknowledge(message.delivery_tag)

    def _refuse(self, message: Any, error: InvalidTask) -> None:
        if (request := _request_of(message)) is not None:
            self._fail(request, error)
        self._inbox.acknowledge(message.delivery_tag)

    def _fail(self, request: SimpleNamespace, error: TaskError) -> None:
        logger.error("Refused %s[%s]: %s", request.task, request.id, error)
        self._store.mark_as_failure(request.id, error, request=request)


def _request_of(message: Any) -> SimpleNamespace | None:
    """What the result store wants to know of a message that is not run; None where it names no task."""
    headers = message.headers or {}
    if not (task_id := headers.get("id")):
        return None
    return SimpleNamespace(
        id=task_id, task=headers.get("task"), errbacks=None, chord=headers.get("chord"),
        group=headers.get("group"), group_index=headers.get("group_index"), root_id=headers.get("root_id"),
        parent_id=None, delivery_info={}, correlation_id=task_id, reply_to=None, ignore_result=False,
        properties=message.properties,
    )  # fmt: skip


@control_command(name="revoke", variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: str | list[str], **_: Any) -> dict[str, str]:
    """Cancel tasks, waiting or running; they end REVOKED, with `terminate` and without."""
    ids = maybe_list(task_id) or []
    for one in ids:
        state.app.conf.inbox.cancel(one)
    return {"ok": f"tasks {', '.join(ids)} cancelled"}


@control_command(
    name="terminate", variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]"
)
def terminate(state: Any, task_id: str | list[str], **_: Any) -> dict[str, str]:
    """Cancel tasks, as `revoke` does, whatever the signal."""
    answer: dict[str, str] = revoke(state, task_id)
    return answer
