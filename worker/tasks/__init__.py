"""The catalogue: importing this room registers every task."""

from worker.tasks import (
    analyze,
    chat,
    diagram,
    document,
    embed,
    extract,
    keywords,
    normalize,
    story,
    summarize,
)
from worker.tasks.base import CATALOGUE, Task, Work

__all__ = [
    "CATALOGUE",
    "Task",
    "Work",
    "analyze",
    "chat",
    "diagram",
    "document",
    "embed",
    "extract",
    "keywords",
    "normalize",
    "story",
    "summarize",
]
