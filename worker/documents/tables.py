"""Tables: cells between ruling lines, and cells that only stand below each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from worker.documents.marks import Box, Mark, Rule, Word, around, median, rows_of

#: Share of its column's width that a line of prose fills, and characters it has at least.
_PROSE_SHARE, _PROSE_CHARS = 0.7, 18
#: Share of the rows of a table that have more than one cell, and rows it has at least.
_FULL_ROWS, _LEAST_ROWS = 0.6, 3
#: More lines than these make no table anybody reads.
_MOST_LINES = 400
#: Nor do more cells: that is squared paper.
_MOST_CELLS = 5000


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        rows: of cells, all of the same length.
        box: where it is on the page, made level.
        marks: what its text was.
    """

    rows: list[list[str]]
    box: Box
    marks: list[Mark]


def ruled_tables(marks: Sequence[Mark], rules: Sequence[Rule]) -> tuple[list[Table], list[Mark]]:
    """Tables whose cells are drawn, and the marks that are in none of them."""
    left, tables = list(marks), []
    height = median([mark.height for mark in marks], 10.0)
    for grid in _grids(_joined(rules, 0.35 * height), 0.5 * height):
        inside = [mark for mark in left if mark.level and _within(mark, grid.box)]
        rows = grid.filled(inside)
        texts = sum(bool(cell) for row in rows for cell in row)
        if texts >= 2 and 2 * texts >= grid.cells:
            tables.append(Table(rows, grid.box, inside))
            taken = set(map(id, inside))
            left = [mark for mark in left if id(mark) not in taken]
    return tables, left


def aligned_table(marks: Sequence[Mark]) -> Table | None:
    """The table that marks make which stand below each other in columns; None where they are prose."""
    rows = rows_of(marks)
    height = median([mark.height for mark in marks], 1.0)
    columns = spans(marks, 0.4 * height)
    if len(columns) < 2 or len(rows) < _LEAST_ROWS:
        return None
    cells = [_in_columns(row, columns) for row in rows]
    full = [row for row in cells if sum(bool(cell) for cell in row) > 1]
    if len(full) < max(_LEAST_ROWS, _FULL_ROWS * len(rows)):
        return None
    prose = sum(
        _is_prose([row[number] for row in cells if row[number]], end - start)
        for number, (start, end) in enumerate(columns)
    )
    if 2 * prose > len(columns):
        return None
    texts = [[" ".join(mark.text for mark in cell) for cell in row] for row in cells]
    return Table(_without_broken_rows(texts, rows), around(mark.box for mark in marks), list(marks))


def spans(marks: Sequence[Mark], gap: float) -> list[tuple[float, float]]:
    """Where from left to right something stands, with less than `gap` between."""
    found: list[tuple[float, float]] = []
    for start, end in sorted((mark.box[0], mark.box[2]) for mark in marks):
        if found and start - found[-1][1] < gap:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _in_columns(row: Sequence[Mark], columns: Sequence[tuple[float, float]]) -> list[list[Mark]]:
    cells: list[list[Mark]] = [[] for _ in columns]
    for mark in row:
        middle = (mark.box[0] + mark.box[2]) / 2
        nearest = min(range(len(columns)), key=lambda n: _distance(middle, columns[n]))
        cells[nearest].append(mark)
    return cells


def _distance(at: float, span: tuple[float, float]) -> float:
    return max(span[0] - at, at - span[1], 0.0)


def _is_prose(cells: Sequence[Sequence[Mark]], width: float) -> bool:
    """Whether a column is a text whose lines fill it."""
    widths = [cell[-1].box[2] - cell[0].box[0] for cell in cells]
    chars = [float(sum(len(mark.text) for mark in cell)) for cell in cells]
    return median(widths) >= _PROSE_SHARE * width and median(chars) >= _PROSE_CHARS


def _without_broken_rows(texts: list[list[str]], rows: Sequence[Sequence[Mark]]) -> list[list[str]]:
    """Rows joined to the one above whose cells they go on: no first cell, and closer than rows are."""
    tops = [min(mark.box[1] for mark in row) for row in rows]
    bottoms = [max(mark.box[3] for mark in row) for row in rows]
    gaps = [below - above for above, below in zip(bottoms, tops[1:], strict=False)]
    usual = median(gaps)
    joined = [texts[0]]
    for row, gap in zip(texts[1:], gaps, strict=True):
        height = bottoms[0] - tops[0]
        if not row[0] and gap < usual - 0.25 * height:
            joined[-1] = [f"{above} {below}".strip() for above, below in zip(joined[-1], row, strict=True)]
        else:
            joined.append(row)
    return joined


@dataclass(frozen=True, slots=True)
class _Grid:
    """Lines that cross: heights of the level ones and distances of the others, and where they are drawn."""

    xs: list[float]
    ys: list[float]
    rules: list[Rule]
    slack: float

    @property
    def box(self) -> Box:
        return self.xs[0], self.ys[0], self.xs[-1], self.ys[-1]

    @property
    def cells(self) -> int:
        """How many there are, those drawn as one counted once."""
        return sum(
            self._owner(r, c) == (r, c) for r in range(len(self.ys) - 1) for c in range(len(self.xs) - 1)
        )

    def filled(self, marks: Sequence[Mark]) -> list[list[str]]:
        """The texts of its cells."""
        cells: dict[tuple[int, int], list[Mark]] = {}
        for mark in marks:
            row = _place(mark.middle, self.ys)
            by_column: dict[int, list[Word]] = {}
            for word in mark.words:
                by_column.setdefault(_place((word.left + word.right) / 2, self.xs), []).append(word)
            for column, words in by_column.items():
                box = (words[0].left, mark.box[1], words[-1].right, mark.box[3])
                cells.setdefault(self._owner(row, column), []).append(Mark(tuple(words), box, box))
        return [
            [_said(cells.get((row, column), ())) for column in range(len(self.xs) - 1)]
            for row in range(len(self.ys) - 1)
        ]

    def _owner(self, row: int, column: int) -> tuple[int, int]:
        """The first of the cells that are drawn as one with this."""
        while column > 0 and not self._drawn(self.xs[column], self.ys[row], self.ys[row + 1], is_level=False):
            column -= 1
        while row > 0 and not self._drawn(self.ys[row], self.xs[column], self.xs[column + 1], is_level=True):
            row -= 1
        return row, column

    def _drawn(self, at: float, start: float, end: float, *, is_level: bool) -> bool:
        middle = (start + end) / 2
        return any(
            rule.is_level == is_level
            and abs(rule.at - at) <= self.slack
            and rule.start - self.slack <= middle <= rule.end + self.slack
            for rule in self.rules
        )


def _said(marks: Sequence[Mark]) -> str:
    return " ".join(mark.text for row in rows_of(marks) for mark in row)


def _place(at: float, edges: Sequence[float]) -> int:
    inside = sum(edge <= at for edge in edges) - 1
    return min(max(inside, 0), len(edges) - 2)


def _within(mark: Mark, box: Box) -> bool:
    middle = (mark.box[0] + mark.box[2]) / 2
    return box[0] <= middle <= box[2] and box[1] <= mark.middle <= box[3]


def _joined(rules: Sequence[Rule], slack: float) -> list[Rule]:
    """Lines of which pieces were found, whole again."""
    found: list[Rule] = []
    for rule in sorted(rules, key=lambda one: (one.is_level, round(one.at / max(slack, 0.1)), one.start))[
        : 10 * _MOST_LINES
    ]:
        last = found[-1] if found else None
        if (
            last
            and last.is_level == rule.is_level
            and abs(last.at - rule.at) <= slack
            and rule.start <= last.end + 2 * slack
        ):
            found[-1] = Rule(rule.is_level, last.at, min(last.start, rule.start), max(last.end, rule.end))
        else:
            found.append(rule)
    return found[:_MOST_LINES]


def _grids(rules: Sequence[Rule], slack: float) -> list[_Grid]:
    """Groups of lines that cross each other and make two rows and two columns at least; the largest first."""
    groups: list[list[Rule]] = []
    for rule in rules:
        touched = [group for group in groups if any(_cross(rule, other, slack) for other in group)]
        groups = [group for group in groups if group not in touched]
        groups.append([rule, *(other for group in touched for other in group)])
    grids = []
    for group in groups:
        xs = _edges([rule.at for rule in group if not rule.is_level], slack)
        ys = _edges([rule.at for rule in group if rule.is_level], slack)
        if len(xs) > 2 and len(ys) > 2 and len(xs) * len(ys) < _MOST_CELLS:
            grids.append(_Grid(xs, ys, group, slack))
    return sorted(grids, key=lambda grid: len(grid.xs) * len(grid.ys), reverse=True)


def _cross(one: Rule, other: Rule, slack: float) -> bool:
    return (
        one.is_level != other.is_level
        and other.start - slack <= one.at <= other.end + slack
        and one.start - slack <= other.at <= one.end + slack
    )


def _edges(values: Sequence[float], slack: float) -> list[float]:
    """Different ones, those that are about the same as one."""
    ordered = sorted(values)
    kept = ordered[:1]
    for before, value in pairwise(ordered):
        if value - before > slack:
            kept.append(value)
    return kept
