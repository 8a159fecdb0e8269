"""From what diagrams are drawn of, nodes and arrows, to a process: one order, no nameless joints."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from worker.diagrams.process import MOST_ARROWS, MOST_CHARS, MOST_STEPS, Arrow, Kind, Process, Step
from worker.errors import InputTooLarge

_NUMBERED = re.compile(r"[A-Za-z_]+([1-9]\d*)")


class NotUnderstood(Exception):
    """A diagram that cannot be read.

    Args:
        why: what is wrong and what was expected.
        line: where, from 1; 0: nowhere in particular.
    """

    def __init__(self, why: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {why}" if line else why)


@dataclass(slots=True)
class Node:
    """Something drawn.

    Attributes:
        text: in it; "" for what only joins arrows.
        role: whose lane it is in.
        kind: None where only the arrows tell: a round thing is a start or an end.
    """

    text: str = ""
    role: str = ""
    kind: Kind | None = "task"


@dataclass(slots=True)
class Graph:
    """Nodes by their ids, in the order they appear, and arrows between them."""

    nodes: dict[str, Node] = field(default_factory=dict)
    arrows: list[tuple[str, str, str]] = field(default_factory=list)

    def node(self, name: str) -> Node:
        """The node of that id; made where there is none.

        Raises:
            InputTooLarge: there are too many.
        """
        if name not in self.nodes:
            if len(self.nodes) >= 2 * MOST_STEPS:
                raise InputTooLarge(f"The diagram has more than {MOST_STEPS:,} steps.", "Split it.")
            self.nodes[name] = Node()
        return self.nodes[name]

    def arrow(self, source: str, target: str, condition: str = "") -> None:
        """Draw an arrow.

        Raises:
            InputTooLarge: there are too many.
        """
        if len(self.arrows) >= 2 * MOST_ARROWS:
            raise InputTooLarge(f"The diagram has more than {MOST_ARROWS:,} arrows.", "Split it.")
        self.arrows.append((source, target, condition))

    def unfold(self, members: dict[str, list[str]]) -> None:
        """What contains others is no step: arrows lead to the first, and from the last, of what is in it.

        Args:
            members: ids of what is in each.
        """
        firsts, lasts = dict[str, str](), dict[str, str]()

        def inner(name: str, place: int, found: dict[str, str]) -> str:
            passed = []
            while name not in found and members.get(name):
                found[name] = name  # where they contain each other
                passed.append(name)
                name = members[name][place]
            name = found.get(name, name)
            found.update(dict.fromkeys(passed, name))
            return name

        self.arrows = [
            (inner(source, -1, lasts), inner(target, 0, firsts), said) for source, target, said in self.arrows
        ]
        for name in members:
            self.nodes.pop(name, None)
        self.arrows = [arrow for arrow in self.arrows if arrow[0] in self.nodes and arrow[1] in self.nodes]

    def process(self, *, told: bool = False) -> Process:
        """The process it draws.

        Args:
            told: the nodes are in order already.

        Raises:
            NotUnderstood: it has no steps.
            InputTooLarge: it has too many.
        """
        self._settle_kinds()
        self._drop_joints()
        order = list(self.nodes) if told else self._numbered() or self._along_the_arrows()
        if not order:
            raise NotUnderstood("there are no steps in it")
        number = {name: place for place, name in enumerate(order, 1)}
        onward: dict[str, list[Arrow]] = {name: [] for name in order}
        for source, target, condition in self.arrows:
            onward[source].append(Arrow(number[target], condition))
        return Process.of(
            [
                Step(node.text, node.role, node.kind or "task", tuple(onward[name]))
                for name, node in ((name, self.nodes[name]) for name in order)
            ]
        )

    def _settle_kinds(self) -> None:
        """What is round begins where nothing leads to it, and ends where nothing follows."""
        sources = {source for source, _, _ in self.arrows}
        targets = {target for _, target, _ in self.arrows}
        for name, node in self.nodes.items():
            if node.kind is None:
                node.kind = "task" if name in targets else "start"
                if name in targets and name not in sources:
                    node.kind = "end"

    def _drop_joints(self) -> None:
        """Nodes without a text that only join or split arrows are left out, their arrows tied together."""
        for name, node in list(self.nodes.items()):
            if node.text.strip():
                continue
            inward = [arrow for arrow in self.arrows if arrow[1] == name and arrow[0] != name]
            onward = [arrow for arrow in self.arrows if arrow[0] == name and arrow[1] != name]
            if not inward or not onward:
                continue
            if len(inward) * len(onward) > MOST_ARROWS:
                raise InputTooLarge(f"The diagram has more than {MOST_ARROWS:,} arrows.", "Split it.")
            self.arrows = [arrow for arrow in self.arrows if name not in arrow[:2]]
            for source, _, before in inward:
                for _, target, after in onward:
                    self.arrow(source, target, both(before, after))
            del self.nodes[name]

    def _numbered(self) -> list[str]:
        """The order the ids tell, where they are s1, s2, s3 …: as it is written here."""
        numbers = {}
        for name in self.nodes:
            if not (found := _NUMBERED.fullmatch(name)) or len(found[1]) > len(str(MOST_STEPS)):
                return []
            numbers[int(found[1])] = name
        if sorted(numbers) != list(range(1, len(self.nodes) + 1)):
            return []
        return [numbers[number] for number in sorted(numbers)]

    def _along_the_arrows(self) -> list[str]:
        """What leads to something is before it, but for what leads back (reverse postorder)."""
        onward: dict[str, list[str]] = {name: [] for name in self.nodes}
        targets = set()
        for source, target, _ in self.arrows:
            onward[source].append(target)
            targets.add(target)
        order: list[str] = []
        seen: set[str] = set()
        # Where nothing leads to, the last one first: what is left last comes first. Then the circles.
        for root in [name for name in self.nodes if name not in targets][::-1]:
            _visit(root, onward, seen, order)
        order.reverse()
        for name in self.nodes:
            circle: list[str] = []
            _visit(name, onward, seen, circle)
            order += reversed(circle)
        return order


def both(first: str, second: str) -> str:
    """Two conditions of one arrow, no longer than one may be."""
    return ", ".join(filter(None, (first.strip(), second.strip())))[:MOST_CHARS]


def _visit(root: str, onward: dict[str, list[str]], seen: set[str], left: list[str]) -> None:
    """Depth first; `left` gets what is left, in that order."""
    if root in seen:
        return
    seen.add(root)
    trail: list[tuple[str, Iterator[str]]] = [(root, reversed(onward[root]))]
    while trail:
        name, following = trail[-1]
        for target in following:
            if target not in seen:
                seen.add(target)
                trail.append((target, reversed(onward[target])))
                break
        else:
            trail.pop()
            left.append(name)
