"""How arguments and results look in a terminal."""

import json
import math
from collections.abc import Sequence
from typing import Any

from worker.producer import Json, Sent

_TEXT_FIELDS = ("text", "request", "input")


def shortened(text: str, limit: int = 200) -> str:
    """One line of at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Lines whose columns stand below each other; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def duration(seconds: float) -> str:
    """As people say it: 12 s, 5 min, 3 h, 2 d."""
    for unit, size_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def readable_input(kwargs: Json) -> str:
    """What a task was asked, without the parameters."""
    if messages := kwargs.get("messages"):
        return str(messages[-1].get("content"))
    for name in _TEXT_FIELDS:
        value = kwargs.get(name)
        if isinstance(value, list):
            return " | ".join(map(str, value))
        if value is not None:
            return value if isinstance(value, str) else json.dumps(value)
    return "the answer of the task before"


def readable_output(result: Json) -> str:
    """What a person wants to see of a result: text as text, data as JSON, vectors by how they compare."""
    if choices := result.get("choices"):
        message = choices[0]["message"]
        return str(message.get("content") or "").strip() or _json(message.get("tool_calls"))
    for name in ("summary", "markdown"):
        if isinstance(text := result.get(name), str):
            return text
    if "keywords" in result:
        return ", ".join(result["keywords"])
    if result.get("object") == "list":
        return _vectors([item["embedding"] for item in result["data"]])
    for name in ("normalized", "data"):
        if name in result:
            return _json(result[name])
    return _json({name: value for name, value in result.items() if name != "meta"})


def progress_line(tasks: Sequence[Sent]) -> str:
    """What is being waited for."""
    return " · ".join(_progress(task) for task in tasks) or "done"


def _progress(task: Sent) -> str:
    update = task.latest
    if update.state == "PROGRESS":
        return f"{task.name} {update.done}/{update.total} {update.unit}"
    return f"{task.name} {update.state.lower()}"


def _vectors(vectors: list[list[float]]) -> str:
    described = f"{len(vectors)} vectors of {len(vectors[0])} numbers"
    if len(vectors) == 1:
        return f"{described}: {', '.join(f'{number:.3f}' for number in vectors[0][:6])} …"
    compared = (f"1 and {at} {_cosine(vectors[0], vector):.2f}" for at, vector in enumerate(vectors[1:], 2))
    return f"{described}; cosine similarity of {', of '.join(compared)}"


def _cosine(left: list[float], right: list[float]) -> float:
    product = sum(a * b for a, b in zip(left, right, strict=True))
    return product / (math.hypot(*left) * math.hypot(*right))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
