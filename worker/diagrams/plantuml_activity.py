"""PlantUML's activity diagrams, read: steps, lanes, if, while, repeat, fork, split and switch."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.diagrams.flow import Block, Flow
from worker.diagrams.graph import NotUnderstood
from worker.diagrams.plantuml_graph import label_of
from worker.diagrams.process import Process

_ACTION = re.compile(r"(?:#[\w/\\|-]+\s*)?:(?P<text>.*)", re.DOTALL)
_ACTION_END = re.compile(r"(?:[;|<\]}/]|(?<![\w\"])>)\s*+(?:<<[^<>]*>>\s*)?$")
_LANE = re.compile(r"\|(?:#[^|]*\|)?(?P<lane>[^|]+)\|\s*(?P<title>.*)$")
_ARROW = re.compile(r"-(?:\[[^\]]*\])?-?>\s*(?P<text>.*?);?$")
#: What parentheses enclose, with one more level of them inside.
_IN = r"[^()]*(?:\([^()]*\)[^()]*)*"
_IS = rf"(?:(?:is|equals)\s*\((?P<is>{_IN})\)\s*)?"
_TEST = rf"\((?P<test>{_IN})\)\s*{_IS}(?:then\s*(?:\((?P<then>{_IN})\))?)?\s*;?$"
_IF = re.compile(rf"if\s*{_TEST}")
_ELSEIF = re.compile(rf"(?:\((?P<before>{_IN})\)\s*)?else\s*if\s*{_TEST}")
_ELSE = re.compile(rf"else\s*(?:\((?P<no>{_IN})\))?$")
_WHILE = re.compile(rf"while\s*\((?P<test>{_IN})\)\s*{_IS}$")
_ENDWHILE = re.compile(rf"end\s*while\s*(?:\((?P<no>{_IN})\))?$")
_REPEAT_WHILE = re.compile(rf"repeat\s*while\s*(?:\((?P<test>{_IN})\))?\s*{_IS}(?:not\s*\((?P<no>{_IN})\))?$")
_BACKWARD = re.compile(r"backward\s*:(?P<text>.*);$")
_SWITCH = re.compile(rf"switch\s*\((?P<test>{_IN})\)$")
_CASE = re.compile(rf"case\s*\((?P<case>{_IN})\)$")
_FORK_END = re.compile(r"end\s*(?:fork|split|merge)\b.*$")
_IGNORED = re.compile(
    r"(?:title|header|footer|caption|skinparam|scale|hide|show|floating|note|partition|group|package|card|rectangle|"
    r"label|legend|end\s*(?:note|group|title|legend))\b.*|!.*|\}|\(\w\)|;"
)
_LONG = re.compile(
    r"(?:floating\s+)?note\s+(?:left|right|top|bottom)\s*(?:#\w+)?$|legend\b[^\n]*$|skinparam.*\{$"
)
_LONG_END = re.compile(r"end\s*(?:note|legend)$|\}$")


def read(text: str, start: int) -> Process:
    """The process of an activity diagram.

    Args:
        text: of the diagram.
        start: where its lines begin.

    Raises:
        NotUnderstood: a line is not of an activity diagram, or a block has no end.
        InputTooLarge: there are too many steps.
    """
    return _Reader().read(text[start:].split("\n"), text.count("\n", 0, start) + 1)


@dataclass(slots=True)
class _Reader:
    flow: Flow = field(default_factory=Flow)
    lanes: dict[str, str] = field(default_factory=dict)
    number: int = 0

    def read(self, lines: list[str], first: int) -> Process:
        place, skipping = 0, False
        while place < len(lines):
            self.number = first + place
            line = lines[place].strip()
            place += 1
            if skipping:
                skipping = not _LONG_END.match(line)
            elif _LONG.match(line):
                skipping = True
            elif _ACTION.match(line):
                said = [line]
                while not _ACTION_END.search(said[-1]):
                    if place == len(lines):
                        raise NotUnderstood("this `:` has no `;` that ends its text", self.number)
                    said.append(lines[place].strip())
                    place += 1
                self._action("\n".join(said))
            elif line and not self._line(line):
                raise NotUnderstood(
                    f"expected `:step;`, `if (test) then (yes)`, `|lane|` or the like; found {line[:40]!r}",
                    self.number,
                )
        if self.flow.blocks:
            raise NotUnderstood(f"`{self.flow.blocks[-1].kind}` has no end")
        return self.flow.process()

    def _action(self, line: str) -> None:
        found = _ACTION.match(line)
        self.flow.step(label_of(_ACTION_END.sub("", found["text"] if found else "")))

    def _line(self, line: str) -> bool:
        """Whether it is understood."""
        if line == "start":
            self.flow.step("", "start")
        elif line in {"stop", "end"}:
            self.flow.step("", "end")
        elif line in {"kill", "detach"}:
            self.flow.ends = []
        elif line == "break":
            self._break()
        elif found := _LANE.match(line):
            lane = found["lane"].strip()
            if found["title"]:
                self.lanes[lane] = label_of(found["title"].strip())
            self.flow.role = self.lanes.get(lane, label_of(lane))
        elif found := _ARROW.match(line):
            self.flow.when(label_of(found["text"]))
        else:
            return self._branching(line) or _IGNORED.match(line) is not None
        return True

    def _branching(self, line: str) -> bool:
        if line in {"fork", "split"}:
            self._needs_a_step()
            self.flow.open("fork")
        elif line in {"fork again", "split again"}:
            self.flow.branch(self._open_block("fork", line), "")
        elif line == "repeat":
            self.flow.waiting.append(self.flow.open("repeat"))
        elif re.fullmatch(r"end\s*if", line):
            block = self._open_block("if", line)
            self.flow.close(block, passing=not block.covered)
        elif line == "endswitch":
            self.flow.close(self._open_block("switch", line), passing=False)
        elif _FORK_END.match(line):
            self.flow.close(self._open_block("fork", line), passing=False)
        else:
            for pattern, act in _ACTS:
                if found := pattern.match(line):
                    act(self, found)
                    return True
            return False
        return True

    def on_if(self, found: re.Match[str]) -> None:
        self._decide("if", found["test"])
        self.flow.when(label_of(found["then"] or found["is"] or ""))

    def on_else_if(self, found: re.Match[str]) -> None:
        """Another test, where the one before it failed."""
        block = self._open_block("if", "elseif")
        self.flow.branch(block, label_of(found["before"] or ""))
        head = self.flow.step(label_of(found["test"]), "decision")
        block.before = [(head, "")]
        self.flow.when(label_of(found["then"] or found["is"] or ""))

    def on_else(self, found: re.Match[str]) -> None:
        block = self._open_block("if", "else")
        self.flow.branch(block, label_of(found["no"] or ""))
        block.covered = True

    def on_while(self, found: re.Match[str]) -> None:
        block = self._decide("while", found["test"])
        self.flow.when(label_of(found["is"] or ""))
        block.covered = True

    def on_end_while(self, found: re.Match[str]) -> None:
        block = self._open_block("while", "endwhile")
        self.flow.back_to(block.head)
        self.flow.ends = [(block.head, label_of(found["no"] or ""))]
        self.flow.close(block, passing=False)

    def on_repeat_while(self, found: re.Match[str]) -> None:
        block = self._open_block("repeat", "repeat while")
        if found["test"] is not None:
            self.flow.step(label_of(found["test"]), "decision")
        if block.head:
            ends = self.flow.ends
            self.flow.when(label_of(found["is"] or ""))
            if block.backward:
                self.flow.step(block.backward)
            self.flow.back_to(block.head)
            self.flow.ends = ends
        self.flow.when(label_of(found["no"] or ""))
        self.flow.close(block, passing=False)

    def on_switch(self, found: re.Match[str]) -> None:
        self._decide("switch", found["test"])
        self.flow.ends = []

    def on_backward(self, found: re.Match[str]) -> None:
        """What is done on the way back."""
        self._open_block("repeat", "backward").backward = label_of(found["text"])

    def on_case(self, found: re.Match[str]) -> None:
        self.flow.branch(self._open_block("switch", "case"), label_of(found["case"]))

    def _decide(self, kind: str, test: str) -> Block:
        head = self.flow.step(label_of(test), "decision")
        block = self.flow.open(kind)
        block.head = head
        return block

    def _break(self) -> None:
        loop = next(
            (block for block in reversed(self.flow.blocks) if block.kind in {"while", "repeat"}), None
        )
        if loop is None:
            raise NotUnderstood("`break` outside of a loop", self.number)
        self.flow.leave(loop)

    def _needs_a_step(self) -> None:
        if not self.flow.ends:
            self.flow.step("", "start")

    def _open_block(self, kind: str, word: str) -> Block:
        if not self.flow.blocks or self.flow.blocks[-1].kind != kind:
            raise NotUnderstood(f"`{word}` without a `{kind}` before it", self.number)
        return self.flow.blocks[-1]


_ACTS: tuple[tuple[re.Pattern[str], Callable[[_Reader, re.Match[str]], None]], ...] = (
    (_IF, _Reader.on_if), (_ELSEIF, _Reader.on_else_if), (_ELSE, _Reader.on_else), (_WHILE, _Reader.on_while),
    (_ENDWHILE, _Reader.on_end_while), (_REPEAT_WHILE, _Reader.on_repeat_while), (_SWITCH, _Reader.on_switch),
    (_CASE, _Reader.on_case), (_BACKWARD, _Reader.on_backward),
)  # fmt: skip
