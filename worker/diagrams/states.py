"""State diagrams, read: Mermaid and PlantUML write them alike. A composite state is a role."""

import re
from dataclasses import dataclass, field

from worker.diagrams.graph import Graph, NotUnderstood
from worker.diagrams.mermaid_flowchart import label_of
from worker.diagrams.process import Kind, Process

# What a name may have, an arrow may too: names are taken whole (`++`), or long lines take for ever.
_WORD = r"\w++(?:[.-]\w++)*+"
_NAME = rf"\[\*\]|\[H\*?\]|{_WORD}"
_ARROW = re.compile(
    rf"(?P<source>{_NAME})(?:\s*<<[\w-]+>>|\s*:::\w+)?\s*(?P<arrow><?-(?:\[[^\]]*\]|[a-z]++(?=-))?-*>?)\s*"
    rf"(?P<target>{_NAME})(?:\s*<<[\w-]+>>|:::\w+)?\s*(?::\s*(?P<text>.*))?$"
)
_STATE = re.compile(
    rf'state\s+(?:"(?P<title>[^"]*)"\s+as\s+(?P<alias>{_WORD})|(?P<name>{_WORD})(?:\s+as\s+"(?P<late>[^"]*)")?)'
    r"\s*(?:<<(?P<kind>[\w-]+)>>|:::\w+|#\S+)?\s*(?P<open>\{)?\s*(?::\s*(?P<text>.*))?$"
)
_SAYS = re.compile(rf"(?P<name>{_WORD})(?::::\w+)?\s*:\s*(?P<text>.*)$")
_PLAIN = re.compile(rf"{_WORD}(?::::\w+)?$")
_IGNORED = re.compile(
    r"(?:direction|classDef|class|style|note|hide|show|skinparam|scale|title|header|footer|accTitle|accDescr|left|"
    r"top)\b.*|!.*|--+$|\|\|$"
)
_NOTE = re.compile(r"note\b[^:]*$|legend\b|skinparam.*\{$")
_END_NOTE = re.compile(r"end ?(?:note|legend)$|\}$", re.IGNORECASE)
_KINDS: dict[str, Kind] = {"start": "start", "end": "end", "choice": "decision"}
MOST_DEPTH = 50


def read(text: str, start: int) -> Process:
    """Every state is a step, every transition an arrow with its event as the condition.

    Args:
        text: of the diagram.
        start: where its states begin.

    Raises:
        NotUnderstood: a line is no state and no transition.
        InputTooLarge: there are too many.
    """
    return _Reader().read(text[start:], text.count("\n", 0, start) + 1)


@dataclass(slots=True)
class _Reader:
    graph: Graph = field(default_factory=Graph)
    inside: list[str] = field(default_factory=list)
    members: dict[str, list[str]] = field(default_factory=dict)
    placed: set[str] = field(default_factory=set)

    def read(self, text: str, first: int) -> Process:
        in_note = False
        for number, raw in enumerate(text.split("\n"), first):
            line = raw.strip().rstrip(";").strip()
            if in_note:
                in_note = not _END_NOTE.match(line)
            elif _NOTE.match(line):
                in_note = True
            elif line and not self._line(line):
                raise NotUnderstood(
                    f'expected `a --> b: event` or `state "text" as a`; found {line[:40]!r}', number
                )
        if self.inside:
            raise NotUnderstood(f"the state {self.inside[-1]!r} has no closing brace")
        self._enter()
        return self.graph.process()

    def _line(self, line: str) -> bool:
        """Whether it is understood."""
        if line == "}" and self.inside:
            self.inside.pop()
        elif found := _STATE.match(line):
            self._state(found)
        elif found := _ARROW.match(line):
            source, target = found["source"], found["target"]
            if found["arrow"].startswith("<"):
                source, target = target, source
            self.graph.arrow(
                self._known(source, "start"), self._known(target, "end"), label_of(found["text"] or "")
            )
        elif _IGNORED.match(line):
            pass
        elif found := _SAYS.match(line):
            self.graph.node(self._known(found["name"])).text = label_of(found["text"])
        elif _PLAIN.match(line):
            self._known(line.partition(":::")[0])
        else:
            return False
        return True

    def _state(self, found: re.Match[str]) -> None:
        name = found["alias"] or found["name"]
        title = found["title"] if found["title"] is not None else found["late"]
        node = self.graph.node(self._known(name))
        if title is not None or found["text"]:
            node.text = label_of(title if title is not None else found["text"])
        if found["kind"]:
            node.kind = _KINDS.get(found["kind"], "task")
            if title is None and node.kind == "task":  # a bar that forks or joins
                node.text = ""
        if found["open"]:
            if len(self.inside) >= MOST_DEPTH:
                raise NotUnderstood(f"more than {MOST_DEPTH} states in each other")
            self.inside.append(name)
            self.members.setdefault(name, [])

    def _known(self, name: str, pseudo: Kind = "task") -> str:
        """The id of a state; `[*]` is one for every place where it is written and either end."""
        is_pseudo = name.startswith("[")
        key = f"{name} {pseudo} {''.join(self.inside[-1:])}" if is_pseudo else name
        if key not in self.graph.nodes:
            node = self.graph.node(key)
            node.text, node.kind = ("", pseudo) if is_pseudo else (name, "task")
        if self.inside and key not in self.placed and key not in self.inside:
            self.members[self.inside[-1]].append(key)
            self.placed.add(key)
        return key

    def _enter(self) -> None:
        """Composite states become the roles of what is in them; arrows lead into and out of them."""
        for name, inner in self.members.items():
            for member in inner:
                self.graph.nodes[member].role = self.graph.nodes[name].text
        self.graph.unfold({name: inner for name, inner in self.members.items() if inner})
