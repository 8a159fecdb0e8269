"""Mermaid's flowcharts, read. Grammar: Mermaid 11, `flow.jison`."""

import html
import re
from dataclasses import dataclass, field
from itertools import product

from worker.diagrams.graph import Graph, Node, NotUnderstood
from worker.diagrams.process import Kind, Process
from worker.diagrams.words import plain

#: Opening bracket → closing ones and what such a node is; the longest first.
_SHAPES: tuple[tuple[str, tuple[str, ...], Kind | None], ...] = (
    ("(((", (")))",), None), ("((", ("))",), None), ("([", ("])",), None), ("[[", ("]]",), "task"),
    ("[(", (")]",), "task"), ("[/", ("/]", "\\]"), "task"), ("[\\", ("\\]", "/]"), "task"),
    ("{{", ("}}",), "task"), ("[", ("]",), "task"), ("(", (")",), "task"), ("{", ("}",), "decision"),
    (">", ("]",), "task"),
)  # fmt: skip
#: Names of shapes in `A@{ shape: … }` that are not tasks.
_NAMED: dict[str, Kind | None] = {
    **dict.fromkeys(("diam", "decision", "diamond", "question"), "decision"),
    **dict.fromkeys(
        ("circle", "circ", "sm-circ", "small-circle", "start", "stadium", "pill", "terminal"), None
    ),
    **dict.fromkeys(("dbl-circ", "double-circle", "fr-circ", "framed-circle", "stop"), "end"),
}
#: Subgraphs in each other.
MOST_DEPTH = 50
_CLASSES: dict[str, Kind] = {"begins": "start", "ends": "end"}

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"[\s;]*")
_ID = re.compile(r"(?:[\w./]|-(?=\w))+")
_ARROW = re.compile(r"\w+@(?=[-=<~xo])")
_HEAD = r"(?:[<xo](?=[-=.]))?"
_LINK = re.compile(
    _HEAD + r"(?:--+(?:[>xo](?![\w])|>|-)|==+(?:[>xo](?!\w)|>|=)|-\.+-(?:[>xo](?!\w)|>)?|(~~~+))"
)
_TEXT_LINK = re.compile(
    _HEAD + r"(?:--(?![->])(?P<a>.+?)--+[>xo-]|==(?![=>])(?P<b>.+?)==+[>xo=]|"
    r"-\.(?![-.])(?P<c>.+?)(?<!\.)\.+-[>xo]?)"
)
_LABEL = re.compile(r'\|\s*"([^"]*)"\s*\||\|([^|]*)\|')
_QUOTED = re.compile(r'\s*"([^"]*)"\s*', re.DOTALL)
_CLASS = re.compile(r":::([\w-]+)")
_SHAPE = re.compile(r"""shape\s*:\s*["']?([\w-]+)""")
_SAYS = re.compile(r"""label\s*:\s*(?:"([^"]*)"|'([^']*)'|([^,\n]+))""")
_ABOUT = re.compile(r"@\{([^}]*)\}")
_IGNORED = re.compile(
    r"(?:classDef|class|style|linkStyle|click|direction|accTitle)\b[^\n]*|accDescr\s*(?::[^\n]*|\{[^}]*\})"
)
_SUBGRAPH = re.compile(r"subgraph\b[ \t]*")
_TITLE = re.compile(r'([^\n;\["]*?)[ \t]*(?:\[?[ \t]*"([^"]*)"[ \t]*\]?|\[([^\]\n]*)\])?[ \t]*(?=[;\n]|\Z)')
_DIRECTION = re.compile(r"[ \t]*(?:TB|TD|BT|RL|LR|[<>^v])?[ \t]*(?=[;\n]|\Z)")
_STOP = re.compile(r"[ \t]*(?=[;\n]|\Z)")
_END = re.compile(r"end\b(?![ \t]*(?:[-=.<(\[{]|:::))")
_ICON = re.compile(r"\bfa[bklrst]?:fa-[\w-]+")
_ENTITY = re.compile(r"#(\d+|[A-Za-z]\w*);")


def read(text: str, start: int) -> Process:
    """The process of a flowchart.

    Args:
        text: of the diagram.
        start: where its header ends.

    Raises:
        NotUnderstood: a line is not of a flowchart.
        InputTooLarge: it has too many steps or arrows.
    """
    return _Reader(text, start).read()


def label_of(text: str) -> str:
    """A label as it is shown."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "`":
        text = text[1:-1]
    text = plain(_ICON.sub("", text).replace("\\n", "\n"))
    return _ENTITY.sub(lambda found: _entity(found[1]), text)


def _describe(node: Node, about: str) -> None:
    """`shape: diam, label: "text"`."""
    if shape := _SHAPE.search(about):
        node.kind = _NAMED.get(shape[1], "task")
    if label := _SAYS.search(about):
        node.text = label_of(label[1] or label[2] or label[3] or "")


def _entity(name: str) -> str:
    if name.isdecimal():
        number = int(name[:8])
        return chr(number) if number < 0x110000 else ""
    return html.unescape(f"&{name};")


@dataclass(slots=True)
class _Reader:
    text: str
    at: int
    graph: Graph = field(default_factory=Graph)
    subgraphs: list[tuple[str, int]] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)
    placed: set[str] = field(default_factory=set)
    brackets: dict[str, int] = field(default_factory=dict)

    def read(self) -> Process:
        self._direction()
        while self._skip(_BLANK) < len(self.text):
            if found := self._take(_SUBGRAPH):
                self._open(found.start())
            elif self.subgraphs and self._take(_END):
                self.subgraphs.pop()
            elif not self._take(_IGNORED):
                self._statement()
        if self.subgraphs:
            raise NotUnderstood("this `subgraph` has no `end`", self._line(self.subgraphs[-1][1]))
        self._enter_subgraphs()
        return self.graph.process()

    def _direction(self) -> None:
        if not self._take(_DIRECTION):
            raise self._wrong("a direction such as `TD`, and a line of its own for each step")

    def _open(self, began: int) -> None:
        """`subgraph id [title]`, `subgraph title`, `subgraph "title"`."""
        if len(self.subgraphs) >= MOST_DEPTH:
            raise NotUnderstood(f"more than {MOST_DEPTH} subgraphs in each other", self._line(began))
        found = self._take(_TITLE)
        if not found:
            raise self._wrong("`subgraph id [title]`")
        title = label_of(next((part for part in (found[2], found[3], found[1]) if part), ""))
        name = found[1].strip() or title
        self.members.setdefault(name, [])
        self.subgraphs.append((name, began))
        self.titles[name] = title

    def _statement(self) -> None:
        """`a & b --> c --> d`."""
        before = self._nodes()
        while not self._take(_STOP):
            self._take(_ARROW)
            condition, both = self._link()
            after = self._nodes()
            if condition is not None:
                for source, target in product(before, after):
                    self.graph.arrow(source, target, condition)
                    if both:
                        self.graph.arrow(target, source, condition)
            before = after

    def _link(self) -> tuple[str | None, bool]:
        """What is written on an arrow (None: it is invisible), and whether it leads both ways."""
        began = self.at
        if found := self._take(_LINK):
            invisible, condition = bool(found[1]), ""
        elif found := self._take(_TEXT_LINK):
            said = next(part for part in found.groups() if part is not None)
            quoted = _QUOTED.fullmatch(said)
            invisible, condition = False, label_of(quoted[1] if quoted else said)
        else:
            raise self._wrong("an arrow such as `-->` or `-->|yes|`, or the end of the line")
        self._skip(_SPACE)
        if label := self._take(_LABEL):
            condition = label_of(label[1] if label[1] is not None else label[2])
        self._skip(_SPACE)
        return None if invisible else condition, self.text[began] == "<"

    def _nodes(self) -> list[str]:
        """`a & b`."""
        names = [self._node()]
        while self.text.startswith("&", self._skip(_SPACE)):
            self.at += 1
            names.append(self._node())
        return names

    def _node(self) -> str:
        """`a`, `a[text]`, `a@{ shape: diam, label: "text" }`, each with `:::class`."""
        self._skip(_SPACE)
        if not (found := self._take(_ID)):
            raise self._wrong("a step such as `a[text]`")
        name = found[0]
        known = name in self.graph.nodes
        node = self.graph.node(name)
        if not known:
            node.text = name
        if about := self._take(_ABOUT):
            _describe(node, about[1])
        else:
            for before, afters, kind in _SHAPES:
                if self.text.startswith(before, self.at):
                    node.text, node.kind = self._text(before, afters), kind
                    break
        while found := self._take(_CLASS):
            node.kind = _CLASSES.get(found[1], node.kind)
        if self.subgraphs and name not in self.placed:
            self.members[self.subgraphs[-1][0]].append(name)
            self.placed.add(name)
        return name

    def _text(self, before: str, afters: tuple[str, ...]) -> str:
        """What stands between brackets."""
        start = self.at + len(before)
        if quoted := _QUOTED.match(self.text, start):
            for after in afters:
                if self.text.startswith(after, quoted.end()):
                    self.at = quoted.end() + len(after)
                    return label_of(quoted[1])
        places = [(place, after) for after in afters if (place := self._next(after, start)) >= 0]
        if not places:
            raise self._wrong(f"`{afters[0]}` after `{before}`")
        place, after = min(places)
        self.at = place + len(after)
        return label_of(self.text[start:place])

    def _next(self, bracket: str, start: int) -> int:
        """Where it comes next; -1: nowhere. What was found is kept: it is not looked for again and again."""
        place = self.brackets.get(bracket, 0)
        if 0 <= place < start or bracket not in self.brackets:
            place = self.brackets[bracket] = self.text.find(bracket, start)
        return place

    def _enter_subgraphs(self) -> None:
        """Members get the subgraph's title as role; arrows to a subgraph lead to its first member."""
        for name, members in self.members.items():
            for member in members:
                self.graph.nodes[member].role = self.titles[name]
        self.graph.unfold(self.members)

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        if found := pattern.match(self.text, self.at):
            self.at = found.end()
        return found

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._take(pattern)
        return self.at

    def _line(self, at: int) -> int:
        return self.text.count("\n", 0, at) + 1

    def _wrong(self, expected: str) -> NotUnderstood:
        rest = self.text[self.at : self.at + 200].split("\n", 1)[0].strip()[:40]
        found = f"found {rest!r}" if rest else "found the end of the line"
        return NotUnderstood(f"expected {expected}; {found}", self._line(self.at))
