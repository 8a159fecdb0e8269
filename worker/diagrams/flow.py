"""From what diagrams are told in, one step after the other with branches and loops, to a process."""

from dataclasses import dataclass, field

from worker.diagrams.graph import Graph, Node, NotUnderstood, both
from worker.diagrams.process import MOST_ARROWS, Kind, Process
from worker.errors import InputTooLarge

#: Steps after which the story goes on, and on which condition.
Ends = list[tuple[str, str]]
#: Blocks in each other.
MOST_DEPTH = 50
#: Characters that all open ends, each time they are carried on, have together; an end counts as some more.
_MOST_CARRIED, _AN_END = 10_000_000, 50


@dataclass(slots=True)
class Block:
    """Something open: a branch, a loop, a fork.

    Attributes:
        kind: what it is, as the diagram's language has it.
        before: where the story was when it began.
        ends: of its branches that are complete.
        head: its decision; "" where it has none.
        covered: whether one of its branches is taken in any case.
        leaving: ends that leave the loop early.
        backward: what is done before the loop begins again.
    """

    kind: str
    before: Ends
    head: str = ""
    ends: Ends = field(default_factory=list)
    covered: bool = False
    leaving: Ends = field(default_factory=list)
    backward: str = ""


@dataclass(slots=True)
class Flow:
    """A story as it is told.

    Attributes:
        graph: what is drawn so far.
        ends: where it stands.
        role: who acts.
        blocks: what is open, the innermost last.
        waiting: loops whose first step has not been told yet.
        carried: characters of the ends that were carried on.
    """

    graph: Graph = field(default_factory=Graph)
    ends: Ends = field(default_factory=list)
    role: str = ""
    blocks: list[Block] = field(default_factory=list)
    waiting: list[Block] = field(default_factory=list)
    carried: int = 0

    def step(self, text: str, kind: Kind = "task", role: str | None = None) -> str:
        """Tell a step; its id."""
        name = f"step-{len(self.graph.nodes)}"
        node: Node = self.graph.node(name)
        node.text, node.kind, node.role = text, kind, self.role if role is None else role
        for source, condition in self.ends:
            self.graph.arrow(source, name, condition)
        for block in self.waiting:
            block.head = name
        self.waiting.clear()
        self.ends = [] if kind == "end" else [(name, "")]
        return name

    def _carry(self, ends: Ends) -> None:
        """Bound what is carried on: it takes time, and the memory of what blocks remember.

        Raises:
            InputTooLarge: it is too much.
        """
        self.carried += sum(_AN_END + len(condition) for _, condition in ends)
        if len(ends) > MOST_ARROWS or self.carried > _MOST_CARRIED:
            raise InputTooLarge("The diagram has too many branches that lead on together.", "Split it.")

    def when(self, condition: str) -> None:
        """What comes next does so on a condition."""
        self.ends = [(name, both(before, condition)) for name, before in self.ends]
        self._carry(self.ends)

    def open(self, kind: str) -> Block:
        """Open a block where the story stands."""
        if len(self.blocks) >= MOST_DEPTH:
            raise NotUnderstood(f"more than {MOST_DEPTH} blocks in each other")
        self._carry(self.ends)
        block = Block(kind, list(self.ends))
        self.blocks.append(block)
        return block

    def branch(self, block: Block, condition: str) -> None:
        """A branch is complete, the next one begins where the block did."""
        block.ends += self.ends
        self._carry(self.ends)
        self.ends = list(block.before)
        self.when(condition)

    def close(self, block: Block, *, passing: bool) -> None:
        """The block ends: the story goes on from every branch; with `passing`, also past all of them."""
        self.ends = [*block.ends, *self.ends, *(block.before if passing else ())]
        self.ends = list(dict.fromkeys([*self.ends, *block.leaving]))
        self._carry(self.ends)
        self.waiting = [waiting for waiting in self.waiting if waiting is not block]
        self.blocks.pop()

    def leave(self, block: Block) -> None:
        """The story leaves a loop early."""
        block.leaving += self.ends
        self._carry(self.ends)
        self.ends = []

    def back_to(self, head: str) -> None:
        """Everything told so far leads back to a step."""
        for source, condition in self.ends:
            self.graph.arrow(source, head, condition)

    def process(self) -> Process:
        """The process that was told; errors as for `Graph.process`."""
        return self.graph.process(told=True)
