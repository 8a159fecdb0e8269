"""Steps as boxes in frames, one a role: the only diagram of PlantUML in which arrows may lead anywhere."""

import re
from dataclasses import dataclass, field

from worker.diagrams.graph import Graph, NotUnderstood
from worker.diagrams.process import Kind, Process
from worker.diagrams.words import plain

NOT_OF_SEQUENCES = (
    "action|agent|artifact|card|circle|cloud|component|file|folder|frame|hexagon|interface|label|node|package|"
    "person|process|rectangle|stack|storage|usecase"
)
SHAPES = f"{NOT_OF_SEQUENCES}|actor|boundary|collections|control|database|entity|queue"
_SHAPE_OF: dict[Kind, str] = {
    "start": "usecase",
    "task": "rectangle",
    "decision": "hexagon",
    "end": "usecase",
}
_KIND_OF: dict[str, Kind | None] = {"hexagon": "decision", "circle": None, "usecase": None}
_KINDS: dict[str, Kind] = {"start": "start", "task": "task", "decision": "decision", "end": "end"}

_NODE = re.compile(
    rf"(?P<shape>{SHAPES})\s+(?:(?:\"(?P<title>[^\"]*)\"|\[(?P<box>[^\]]*)\])(?:\s+as\s+(?P<alias>[\w.]+))?|(?P<name>[\w.]+)"
    r"(?:\s+as\s+(?:\"(?P<late>[^\"]*)\"|(?P<word>\w+)))?)\s*(?P<marks>(?:<<[^>]*>>\s*)*)(?:#\S+\s*)?(?P<open>\{)?$"
)
_TOGETHER = re.compile(r"together\s*\{$")
# What a name may have, an arrow may too: names are taken whole (`++`), or long lines take for ever.
_END = r"\w++(?:\.\w++)*+|\[[^\]]+\]|\([^)]+\)|:[^:]+:"
_ARROW = re.compile(
    rf"(?P<source>{_END})\s*(?P<arrow><?[-.=~]+(?:(?:\[[^\]]*\][a-z]*|[a-z]+)[-.=~]+)?>?)\s*"
    rf"(?P<target>{_END})\s*(?::\s*(?P<text>.*))?$"
)
_IGNORED = re.compile(
    r"(?:skinparam|hide|show|title|header|footer|caption|left|top|scale|note|legend|end|allow\w*)\b.*|!.*"
)
_UNICODE = re.compile(r"<U\+([0-9A-Fa-f]{4,6})>")
_TELLING = re.compile(r"[^\w ,?!()\n]|_", re.ASCII)
MOST_DEPTH = 50


def write(process: Process) -> str:
    """A deployment diagram; `read` makes the same process of it."""
    lines = ["@startuml", "hide stereotype"]
    numbered = list(enumerate(process.steps, 1))
    for place, role in enumerate(("", *process.roles)):
        if role:
            lines.append(f'frame "{_escaped(role)}" as r{place} {{')
        for number, step in numbered:
            if step.role == role:
                indent = "  " if role else ""
                shape = _SHAPE_OF[step.kind]
                lines.append(f'{indent}{shape} "{_escaped(step.action)}" as s{number} <<{step.kind}>>')
        if role:
            lines.append("}")
    for number, step in numbered:
        for arrow in step.next:
            label = f" : {_escaped(arrow.condition)}" if arrow.condition else ""
            lines.append(f"s{number} --> s{arrow.to}{label}")
    return "\n".join([*lines, "@enduml"]) + "\n"


def read(text: str, start: int) -> Process:
    """The process of a deployment or component diagram.

    Args:
        text: of the diagram.
        start: where its lines begin.

    Raises:
        NotUnderstood: a line is no box and no arrow.
        InputTooLarge: there are too many.
    """
    reader = _Reader()
    for number, raw in enumerate(text[start:].split("\n"), text.count("\n", 0, start) + 1):
        line = raw.strip()
        if line and not reader.line(line):
            raise NotUnderstood(
                f'expected `rectangle "text" as a` or `a --> b : text`; found {line[:40]!r}', number
            )
    if reader.inside:
        raise NotUnderstood("a frame has no closing brace")
    return reader.graph.process()


def label_of(text: str) -> str:
    """A label as it is shown."""
    text = plain(_UNICODE.sub("\0\\1\0", text.replace("\\n", "\n")))
    return re.sub("\0([0-9A-Fa-f]+)\0", lambda found: _character(found[1]), text)


def _character(code: str) -> str:
    number = int(code, 16)
    return chr(number) if number < 0x110000 else ""


def _escaped(text: str) -> str:
    def code(found: re.Match[str]) -> str:
        return f"<U+{ord(found[0]):04X}>" if ord(found[0]) < 0x80 else found[0]

    return _TELLING.sub(code, text).replace("\n", "\\n")


@dataclass(slots=True)
class _Reader:
    graph: Graph = field(default_factory=Graph)
    inside: list[str] = field(default_factory=list)

    def line(self, line: str) -> bool:
        """Whether it is understood."""
        if line == "}" and self.inside:
            self.inside.pop()
        elif _TOGETHER.match(line):
            self._enter(self.inside[-1] if self.inside else "")
        elif found := _NODE.match(line):
            self._box(found)
        elif found := _ARROW.match(line):
            source, target = self._known(found["source"]), self._known(found["target"])
            if found["arrow"].startswith("<"):
                source, target = target, source
            self.graph.arrow(source, target, label_of(found["text"] or ""))
        else:
            return _IGNORED.match(line) is not None
        return True

    def _box(self, found: re.Match[str]) -> None:
        title = next(
            (
                part
                for part in (found["title"], found["box"], found["late"], found["name"])
                if part is not None
            ),
            "",
        )
        if found["open"]:
            self._enter(label_of(title))
            return
        name = self._known(found["alias"] or found["word"] or found["name"] or title)
        node = self.graph.node(name)
        node.text = label_of(title)
        node.role = self.inside[-1] if self.inside else ""
        node.kind = _KIND_OF.get(found["shape"], "task")
        for mark in re.findall(r"<<\s*(\w+)\s*>>", found["marks"]):
            node.kind = _KINDS.get(mark, node.kind)

    def _enter(self, role: str) -> None:
        if len(self.inside) >= MOST_DEPTH:
            raise NotUnderstood(f"more than {MOST_DEPTH} frames in each other")
        self.inside.append(role)

    def _known(self, name: str) -> str:
        name = name.strip("[]():")
        if name not in self.graph.nodes:
            self.graph.node(name).text = name
        return name
