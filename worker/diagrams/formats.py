"""Which diagram some bytes are, and the way from one to another."""

import json
import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Literal, get_args
from xml.etree.ElementTree import Element

from worker.contracts.base import read_object
from worker.contracts.diagram import DiagramFormat
from worker.diagrams import bpmn, bpmn_writing, drawio, mermaid, plantuml
from worker.diagrams.graph import NotUnderstood
from worker.diagrams.markup import local, read_xml
from worker.diagrams.process import KINDS, Arrow, Process, Step
from worker.errors import InputTooLarge, InvalidTask

FORMATS: tuple[DiagramFormat, ...] = get_args(DiagramFormat)
Source = Literal["mermaid", "plantuml", "bpmn", "drawio", "json"]

#: Bytes of a diagram; of one in lines (Mermaid, PlantUML), and characters of a line.
MOST_BYTES, MOST_TEXT_BYTES, MOST_LINE = 4 * 1024 * 1024, 1024 * 1024, 2_000
_SUFFIXES: dict[str, Source] = {
    ".mmd": "mermaid", ".mermaid": "mermaid", ".puml": "plantuml", ".plantuml": "plantuml", ".pu": "plantuml",
    ".iuml": "plantuml", ".wsd": "plantuml", ".bpmn": "bpmn", ".drawio": "drawio", ".dio": "drawio",
    ".json": "json",
}  # fmt: skip
_SPACES = re.compile(r"[^\S\n]+")
_ROOTS: dict[str, Source] = {"definitions": "bpmn", "mxfile": "drawio", "mxGraphModel": "drawio"}
_ROOT = re.compile(
    rb"\A(?:<\?[^>]*>|<!--(?:(?!-->).)*-->|<!DOCTYPE[^>\[]*>|\s)*<(?:[\w.-]+:)?(\w+)", re.DOTALL
)


def source_of(data: bytes, file_name: str = "") -> Source | None:
    """Which text diagram it is: by its content, and by its name where that does not tell; None: none."""
    if found := _ROOT.match(data[:4096].removeprefix(b"\xef\xbb\xbf")):
        return _ROOTS.get(found[1].decode())
    head = data[: 64 * 1024].decode("utf-8-sig", "replace")
    if "\0" in head:
        return None
    if plantuml.is_plantuml(head):
        return "plantuml"
    if mermaid.is_mermaid(head):
        return "mermaid"
    return _SUFFIXES.get(PurePath(file_name).suffix.lower())


def is_text(data: bytes) -> bool:
    """Whether these bytes are text of any kind."""
    try:
        return "\0" not in data.decode("utf-8")
    except UnicodeDecodeError:
        return False


def read(data: bytes, file_name: str = "", page: int = 1) -> Process:
    """The process a text diagram describes; blocking, for a thread.

    Args:
        data: the file's.
        file_name: for messages, and where the content does not tell what it is.
        page: of a draw.io file.

    Raises:
        InvalidTask: it is no diagram that is known, or a line of it, which the message names, is none.
        InputTooLarge: there is more of it than people draw.
    """
    source = source_of(data, file_name)
    name = file_name or "The diagram"
    if source is None:
        raise InvalidTask(
            f"{name} is no diagram that can be read as text.",
            "Give Mermaid (.mmd), PlantUML (.puml), BPMN (.bpmn), draw.io (.drawio) or JSON.",
        )
    most = MOST_TEXT_BYTES if source in {"mermaid", "plantuml"} else MOST_BYTES
    if len(data) > most:
        raise InputTooLarge(
            f"{name} has {len(data):,} bytes, the limit for {source} is {most:,}.", "Split it."
        )
    try:
        return _READERS[source](data, page)
    except NotUnderstood as error:
        raise InvalidTask(f"{name} cannot be read as {source}: {error}.") from None


def write(process: Process, to: DiagramFormat) -> str:
    """The process as a diagram of that format."""
    return _WRITERS[to](process)


def process_of(found: Any) -> Process:
    """The process in JSON: `{"steps": […]}`, or the list alone.

    A step without `next` leads to the one after it.

    Raises:
        NotUnderstood: naming the step that is wrong.
    """
    rows = found.get("steps") if isinstance(found, dict) else found
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise NotUnderstood('expected {"steps": [{"number", "action", "role", "kind", "next"}]}')
    if not rows:
        raise NotUnderstood("there are no steps in it")
    for place, row in enumerate(rows, 1):
        if not isinstance(row.get("number", place), int | float | str):
            raise NotUnderstood(f"step {place}: `number` is neither a number nor a text")
    numbers = {row.get("number", place): place for place, row in enumerate(rows, 1)}
    if len(numbers) < len(rows):
        raise NotUnderstood("two steps have the same number")
    return Process.of([_step(row, place, len(rows), numbers) for place, row in enumerate(rows, 1)])


def _step(row: dict[str, Any], place: int, count: int, numbers: dict[Any, int]) -> Step:
    kind = row.get("kind", "task")
    if (
        kind not in KINDS
        or not isinstance(row.get("action"), str)
        or not isinstance(row.get("role", ""), str | None)
    ):
        raise NotUnderstood(
            f"step {place} needs `action` and `role`, texts, and a `kind` of {', '.join(KINDS)}"
        )
    if row.get("next") is None:
        return Step(
            row["action"],
            row.get("role") or "",
            kind,
            (Arrow(place + 1),) if place < count and kind != "end" else (),
        )
    arrows = []
    for arrow in row["next"] if isinstance(row["next"], list) else [row["next"]]:
        to, condition = (
            (arrow.get("to"), arrow.get("condition") or "") if isinstance(arrow, dict) else (arrow, "")
        )
        if not isinstance(to, int | float | str) or to not in numbers or not isinstance(condition, str):
            raise NotUnderstood(f"step {place}: `next` leads to {str(to)[:40]!r}, which is no step's number")
        arrows.append(Arrow(numbers[to], condition))
    return Step(row["action"], row.get("role") or "", kind, tuple(arrows))


def _read_json(data: bytes, _page: int) -> Process:
    try:
        text = data.decode("utf-8-sig").strip()
        found = read_object(b'{"steps": %s}' % text.encode() if text.startswith("[") else text.encode())
    except ValueError as error:
        raise NotUnderstood(str(error)) from None
    return process_of(found)


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotUnderstood(f"it is not UTF-8 (byte {error.start})") from None
    lines = _SPACES.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
    if wrong := next((number for number, line in enumerate(lines, 1) if len(line) > MOST_LINE), 0):
        raise NotUnderstood(f"it has more than {MOST_LINE:,} characters", wrong)
    return "\n".join(lines)


def _xml(data: bytes, root: str) -> Element:
    found = read_xml(data)
    if _ROOTS.get(local(found)) != root:
        raise NotUnderstood(f"its XML is a `{local(found)}`")
    return found


def _write_json(process: Process) -> str:
    return json.dumps({"steps": process.as_json()}, ensure_ascii=False, indent=2) + "\n"


_READERS: dict[Source, Callable[[bytes, int], Process]] = {
    "mermaid": lambda data, _page: mermaid.read(_text(data)),
    "plantuml": lambda data, _page: plantuml.read(_text(data)),
    "bpmn": lambda data, _page: bpmn.read(_xml(data, "bpmn")),
    "drawio": lambda data, page: drawio.read(_xml(data, "drawio"), page),
    "json": _read_json,
}
_WRITERS: dict[DiagramFormat, Callable[[Process], str]] = {
    "mermaid": mermaid.write,
    "plantuml": plantuml.write,
    "bpmn": bpmn_writing.write,
    "json": _write_json,
}
