"""Messages as Celery's producers write them, and what is asked of a Redis that has some."""

import hashlib
import itertools
import json
from typing import Any

_serial = itertools.count(1)

LANES = [["interactive"], ["default", "celery"], ["batch"]]
QUEUES = ["interactive", "default", "celery", "batch"]
PRIORITIES = ["", "\x06\x163", "\x06\x166", "\x06\x169"]


def message(task_id: str | None = None, *, eta: str | None = None, group: str | None = None) -> bytes:
    """A message of protocol 2; no two are the same."""
    headers = {"lang": "py", "task": "t", "id": task_id, "eta": eta, "group": group, "retries": 0}
    return _written(headers, {"correlation_id": task_id, "delivery_tag": f"tag-{next(_serial)}"})


def old_message(task_id: str | None) -> bytes:
    """As protocol 1 has it, and other programs: no headers, the id among the properties."""
    return _written({}, {"correlation_id": task_id, "delivery_tag": f"tag-{next(_serial)}"})


def junk() -> bytes:
    """Not JSON, and not UTF-8."""
    return b'\x00\xff{"junk": %d' % next(_serial)


def name_of_nameless(raw: bytes) -> bytes:
    """The task id the scripts give to a message that has none."""
    kind = "not-a-task" if raw.startswith(b"\x00") else "unnamed"
    return f"{kind}-{hashlib.sha1(raw).hexdigest()[:12]}".encode()


def outcome(status: str, task_id: str, result: Any = None) -> str:
    """What Celery's result store keeps."""
    return json.dumps({"status": status, "result": result, "traceback": None, "task_id": task_id})


def _written(headers: dict[str, Any], properties: dict[str, Any]) -> bytes:
    return json.dumps({"body": "W10=", "headers": headers, "properties": properties}).encode()
