"""A process: who does what, and what comes after. What every diagram is read into and written from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from worker.errors import InputTooLarge

Kind = Literal["start", "task", "decision", "end"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: A diagram for people has fewer steps and arrows; characters of one text.
MOST_STEPS, MOST_ARROWS, MOST_CHARS = 1_000, 4_000, 2_000
#: Characters of all its texts.
MOST_ALL_CHARS = 200_000
#: What a step says that says nothing.
UNNAMED: dict[Kind, str] = {"start": "Start", "task": "…", "decision": "?", "end": "End"}

#: What XML 1.0 cannot carry.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Arrow:
    """What comes after a step.

    Attributes:
        to: number of the next step.
        condition: when; "" always.
    """

    to: int
    condition: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One step; its number is its place in the process, from 1.

    Attributes:
        action: what is done, never empty; lines are separated by newlines.
        role: who does it; "" where the diagram does not say.
        kind: a start has nothing before it, an end nothing after it.
        next: what comes after.
    """

    action: str
    role: str = ""
    kind: Kind = "task"
    next: tuple[Arrow, ...] = ()


@dataclass(frozen=True, slots=True)
class Process:
    """Steps in the order of their numbers."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, steps: Sequence[Step]) -> "Process":
        """A process with clean texts, and kinds that agree with the arrows.

        Raises:
            InputTooLarge: there is more of it than people draw.
            ValueError: an arrow leads to a step that there is not.
        """
        arrows = [arrow for step in steps for arrow in step.next]
        if len(steps) > MOST_STEPS or len(arrows) > MOST_ARROWS:
            raise InputTooLarge(
                f"The diagram has {len(steps):,} steps and {len(arrows):,} arrows, the limits are "
                f"{MOST_STEPS:,} and {MOST_ARROWS:,}.",
                "Split it.",
            )
        if wrong := next((arrow.to for arrow in arrows if not 1 <= arrow.to <= len(steps)), None):
            raise ValueError(f"an arrow leads to step {wrong}; there are {len(steps)}")
        reached = {arrow.to for arrow in arrows}
        clean = tuple(_clean(step, number in reached) for number, step in enumerate(steps, 1))
        chars = sum(
            len(step.action) + len(step.role) + sum(len(arrow.condition) for arrow in step.next)
            for step in clean
        )
        if chars > MOST_ALL_CHARS:
            raise InputTooLarge(
                f"The diagram has {chars:,} characters in its texts, the limit is {MOST_ALL_CHARS:,}.",
                "Split it.",
            )
        return cls(clean)

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role once, in the order of the steps."""
        return tuple(dict.fromkeys(step.role for step in self.steps if step.role))

    def as_json(self) -> list[dict[str, Any]]:
        """`[{number, action, role, kind, next: [{to, condition}]}]`."""
        return [
            {
                "number": number,
                "action": step.action,
                "role": step.role,
                "kind": step.kind,
                "next": [{"to": arrow.to, "condition": arrow.condition} for arrow in step.next],
            }
            for number, step in enumerate(self.steps, 1)
        ]


def lines_of(text: str) -> str:
    """A text as steps have it: no more space than it needs, and nothing XML cannot carry."""
    text = _UNWRITABLE.sub(" ", _LINE_ENDS.sub("\n", text[: 4 * MOST_CHARS]))
    return "\n".join(line for raw in text.split("\n") if (line := " ".join(raw.split())))[:MOST_CHARS].strip()


def line_of(text: str) -> str:
    """The same in one line."""
    return lines_of(text).replace("\n", " ")


def _clean(step: Step, reached: bool) -> Step:
    kind = step.kind
    if (kind == "start" and reached) or (kind == "end" and step.next):
        kind = "task"
    arrows = dict.fromkeys(replace(arrow, condition=line_of(arrow.condition)) for arrow in step.next)
    return Step(lines_of(step.action) or UNNAMED[kind], line_of(step.role), kind, tuple(arrows))
