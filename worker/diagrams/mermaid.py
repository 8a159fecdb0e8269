"""Mermaid: flowcharts both ways; sequence and state diagrams are read."""

import re

from worker.diagrams import mermaid_flowchart, sequences, states
from worker.diagrams.graph import NotUnderstood
from worker.diagrams.process import Process
from worker.diagrams.words import without

_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n(?:.*\n)*?[ \t]*---[ \t]*(?:\n|\Z)")
_COMMENT = re.compile(r"^[ \t]*%%.*$", re.MULTILINE)
_HEADER = re.compile(r"\s*(flowchart(?:-elk)?|graph|sequenceDiagram|stateDiagram(?:-v2)?)\b")


def is_mermaid(text: str) -> bool:
    """Whether it begins as a diagram of this kind does."""
    return _HEADER.match(_bare(text)) is not None


def read(text: str) -> Process:
    """The process of a flowchart, a sequence or a state diagram.

    Raises:
        NotUnderstood: it is another diagram, or not one at all.
    """
    bare = _bare(text)
    if (found := _HEADER.match(bare)) is None:
        line = len(bare) - len(bare.lstrip())
        raise NotUnderstood(
            f"expected `flowchart`, `graph`, `sequenceDiagram` or `stateDiagram`; found {bare.strip()[:9]!r}",
            bare.count("\n", 0, line) + 1,
        )
    match found[1].partition("-")[0]:
        case "sequenceDiagram":
            return sequences.read(bare, found.end(), sequences.MERMAID)
        case "stateDiagram":
            return states.read(bare, found.end())
    return mermaid_flowchart.read(bare, found.end())


def write(process: Process) -> str:
    """A flowchart with a subgraph for every role; `read` makes the same process of it."""
    lines = ["flowchart TD"]
    numbered = list(enumerate(process.steps, 1))
    lines += ["    " + _node(number, step.action, step.kind) for number, step in numbered if not step.role]
    for place, role in enumerate(process.roles, 1):
        lines.append(f"    subgraph r{place}[{_quoted(role)}]")
        lines += [
            "        " + _node(number, step.action, step.kind)
            for number, step in numbered
            if step.role == role
        ]
        lines.append("    end")
    for number, step in numbered:
        for arrow in step.next:
            label = f"|{_quoted(arrow.condition)}|" if arrow.condition else ""
            lines.append(f"    s{number} -->{label} s{arrow.to}")
    return "\n".join(lines) + "\n"


#: Brackets of a kind of step; a class tells starts and ends apart.
_SHAPES = {
    "start": ('(["', '"]):::begins'),
    "task": ('["', '"]'),
    "decision": ('{"', '"}'),
    "end": ('(["', '"]):::ends'),
}
_TELLING = re.compile(
    r"""[^\w ,.()?!'/:+\n-]|^[-+](?=\s)|(?<=^\d)[.)]|(?<=^\d\d)[.)]|_|:(?=\S)""", re.MULTILINE
)


def _node(number: int, action: str, kind: str) -> str:
    before, after = _SHAPES[kind]
    return f"s{number}{before}{_escaped(action)}{after}"


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """With entity codes for what Mermaid, Markdown or HTML would take for themselves."""

    def code(found: re.Match[str]) -> str:
        return f"#{ord(found[0])};" if ord(found[0]) < 0x80 else found[0]

    return _TELLING.sub(code, text).replace("\n", "<br>")


def _bare(text: str) -> str:
    """Without front matter, directives and comments; every line keeps its number."""
    text = _FRONT_MATTER.sub(lambda found: "\n" * found[0].count("\n"), text)
    return _COMMENT.sub("", without(text, "%%{", "}%%"))
