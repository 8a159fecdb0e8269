"""What is on a page: runs of text and ruling lines, whoever found them.

Boxes are (left, top, right, bottom), from the upper left corner of the page as it is looked at; points in a
PDF, pixels in a picture.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a run, and where it begins and ends."""

    text: str
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A run of text on one line.

    Attributes:
        words: of it, from left to right.
        box: where it is on the page, made level.
        at: where it is on the page as it is.
        confidence: 0 to 1 that it says this.
        level: whether it runs from left to right.
    """

    words: tuple[Word, ...]
    box: Box
    at: Box
    confidence: float = 1.0
    level: bool = True

    @property
    def text(self) -> str:
        """Its words."""
        return " ".join(word.text for word in self.words)

    @property
    def height(self) -> float:
        """Of its box."""
        return self.box[3] - self.box[1]

    @property
    def middle(self) -> float:
        """Height at which it runs."""
        return (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, slots=True)
class Rule:
    """A straight line that is drawn: at a height or a distance from the left, and from where to where."""

    is_level: bool
    at: float
    start: float
    end: float


def around(boxes: Iterable[Box]) -> Box:
    """The box around some."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def median(values: Sequence[float], default: float = 0.0) -> float:
    """The lower one where there are two."""
    return sorted(values)[(len(values) - 1) // 2] if values else default


def rows_of(marks: Iterable[Mark]) -> list[list[Mark]]:
    """Marks in the lines they stand on, from the top; each from left to right.

    A mark belongs to a line where its middle is within half a height of the line's.
    """
    rows: list[list[Mark]] = []
    for mark in sorted(marks, key=lambda one: one.middle):
        if rows and mark.middle - median([one.middle for one in rows[-1]]) < 0.5 * min(
            mark.height, median([one.height for one in rows[-1]])
        ):
            rows[-1].append(mark)
        else:
            rows.append([mark])
    return [sorted(row, key=lambda one: one.box[0]) for row in rows]
