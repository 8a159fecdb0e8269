"""Where a task is, as Celery's result store has it."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Update:
    """Where a task is.

    Attributes:
        state: Celery's state: PENDING, PROGRESS, RETRY, SUCCESS, FAILURE, REVOKED …
        result: the result of a task that ended in SUCCESS.
        done: units done, in state PROGRESS.
        total: units there are, in state PROGRESS.
        unit: what is counted, in state PROGRESS.
        error_type: class name of what a task that failed ended with.
        error: its message.
    """

    state: str
    result: Any = None
    done: int = 0
    total: int = 0
    unit: str = ""
    error_type: str = ""
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether the task is over."""
        return self.state in {"SUCCESS", "FAILURE", "REVOKED"}

    @property
    def failed(self) -> bool:
        """Whether the task is over without a result."""
        return self.state in {"FAILURE", "REVOKED"}


def read_state(stored: str | bytes | None) -> Update:
    """What a stored value says, read as it is: Celery would build exception objects of it."""
    if not stored:
        return Update("PENDING")
    meta = json.loads(stored)
    state, result = meta["status"], meta["result"]
    if state == "PROGRESS":
        return Update(state, done=result["done"], total=result["total"], unit=result["unit"])
    if state in {"FAILURE", "RETRY"}:
        message = result["exc_message"]
        text = " ".join(map(str, message)) if isinstance(message, list | tuple) else str(message)
        return Update(state, error_type=result["exc_type"], error=text)
    return Update(state, result=result)
