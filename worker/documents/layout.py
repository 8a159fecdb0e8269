"""From marks on a page to blocks in the order they are read: headings, paragraphs, lists, tables.

Columns are found as the widest gap that runs down between marks (recursive XY cuts, Nagy and Seth 1984), from
the longest run of marks that has one, so that a title above two columns does not hide them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from worker.documents.marks import Box, Mark, Rule, around, median, rows_of
from worker.documents.tables import Table, aligned_table, ruled_tables

#: Heights of a line between two columns, at least, and above what stands below them and is none of them.
_GUTTER, _APART = 0.9, 2.5
#: Lines of a column, at least.
_COLUMN_LINES = 3
#: How much larger than the text headings are, by level; what is read from pictures is not so exact.
_HEADINGS, _READ_HEADINGS = (1.7, 1.35, 1.15), (1.65, 1.35, 1.22)
_MOST_HEADING_CHARS = 160
#: Marks of one page that are put in order; more are left as they come.
_MOST_MARKS = 5000
_BULLET = re.compile(r"^[•‣▪●◦∙·■□–—*-]\s+(?=\S)")  # noqa: RUF001 - those that are used
_BROKEN = re.compile(r"[^\W\d_]-$")
_NUMBER = re.compile(r"^(\d{1,3}|[a-zA-Z])[.)]\s+\S")

Kind = Literal["heading", "paragraph", "item", "table"]


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a page.

    Attributes:
        kind: what it is.
        text: of all but tables.
        rows: of a table.
        level: of a heading, 1 to 3.
        box: where it is on the page as it is.
    """

    kind: Kind
    box: Box
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    level: int = 0


@dataclass(frozen=True, slots=True)
class _Line:
    """Marks side by side."""

    text: str
    box: Box
    at: Box
    size: float
    first: float  # width of its first word


def blocks_of(marks: Sequence[Mark], rules: Sequence[Rule], *, exact: bool) -> list[Block]:
    """The blocks of a page, in reading order.

    Args:
        marks: its text.
        rules: its straight lines.
        exact: whether heights are those of the font, not those of what was seen.
    """
    if not marks:
        return []
    tables, rest = ruled_tables(marks, rules)
    level = [mark for mark in rest if mark.level]
    thresholds = _HEADINGS if exact else _READ_HEADINGS
    body = _body_size([mark for mark in marks if mark.level] or list(marks))
    blocks: list[Block] = []
    for part in _in_order([*level, *tables], _MOST_MARKS):
        if isinstance(part, Table):
            rows = tuple(tuple(row) for row in part.rows)
            blocks.append(Block("table", around(mark.at for mark in part.marks), rows=rows))
        else:
            blocks += _paragraphs([_line(row) for row in rows_of(part)], body, thresholds)
    upright = [mark for mark in rest if not mark.level]
    return blocks + [Block("paragraph", mark.at, mark.text) for mark in upright]


_Part = Mark | Table


def _in_order(parts: Sequence[_Part], room: int) -> list[Table | list[Mark]]:
    """Tables, and marks of one column, in the order they are read."""
    ordered = sorted(parts, key=lambda part: (part.box[1], part.box[0]))
    found: list[Table | list[Mark]] = []
    start, room = 0, room - len(parts)
    while start < len(ordered):
        run = _columns(ordered, start) if room > 0 else None
        if run is None:
            _add(found, ordered[start])
            start += 1
            continue
        end, gutter = run
        inside = ordered[start:end]
        marks = [part for part in inside if isinstance(part, Mark)]
        framed = _table(marks) if len(marks) == len(inside) else None
        if framed is not None:
            before, table, after = framed
            for mark in before:
                _add(found, mark)
            found.append(table)
            ordered[start:end] = [*before, *table.marks, *after]
            start = end - len(after)
            continue
        for side in (
            [part for part in inside if _center(part) < gutter],
            [part for part in inside if _center(part) >= gutter],
        ):
            found += _in_order(side, room)
            found.append([])  # nothing goes on from one column into the next
        start = end
    return [part for part in found if part]


def _add(found: list[Table | list[Mark]], part: _Part) -> None:
    if isinstance(part, Table):
        found.append(part)
    elif found and isinstance(found[-1], list):
        found[-1].append(part)
    else:
        found.append([part])


def _columns(parts: Sequence[_Part], start: int) -> tuple[int, float] | None:
    """The longest run of parts from one on that stands in columns: where it ends, and where they part.

    It ends before a part that closes a gap, so that only there it is looked at.
    """
    height = median([part.height for part in parts if isinstance(part, Mark)], 10.0)
    free = [(min(part.box[0] for part in parts), max(part.box[2] for part in parts))]
    bottom = parts[start].box[3]
    ends: list[tuple[int, list[tuple[float, float]]]] = []
    end = start
    while end < len(parts) and free and parts[end].box[1] - bottom < _APART * height:
        left, _, right, below = parts[end].box
        pieces = [_cut(gap, left, right, _GUTTER * height) for gap in free]
        if not all(pieces):
            ends.append((end, free))
        free = [piece for some in pieces for piece in some]
        bottom = max(bottom, below)
        end += 1
    if free:
        ends.append((end, free))
    for last, gaps in reversed(ends):
        gutter = _gutter(parts[start:last], gaps, height)
        if gutter is not None:
            return last, gutter
    return None


def _cut(gap: tuple[float, float], left: float, right: float, least: float) -> list[tuple[float, float]]:
    """What is left of a gap beside something, where that is wide enough."""
    pieces = (gap[0], min(gap[1], left)), (max(gap[0], right), gap[1])
    return [piece for piece in pieces if piece[1] - piece[0] >= least]


def _gutter(run: Sequence[_Part], free: Sequence[tuple[float, float]], height: float) -> float | None:
    """The middle of the widest gap with enough on both sides, side by side."""
    for a, b in sorted(free, key=lambda gap: gap[0] - gap[1]):
        middle = (a + b) / 2
        sides = (
            [part for part in run if _center(part) < middle],
            [part for part in run if _center(part) > middle],
        )
        if min(map(_lines, sides)) < _COLUMN_LINES:
            continue
        boxes = [around(part.box for part in side) for side in sides]
        common = min(box[3] for box in boxes) - max(box[1] for box in boxes)
        if common >= 0.5 * min(box[3] - box[1] for box in boxes) and common > 2 * height:
            return middle
    return None


def _lines(side: Sequence[_Part]) -> int:
    """How many lines there are, at least; a table counts as many."""
    tops = sorted(part.box[1] for part in side if isinstance(part, Mark))
    height = median([part.height for part in side if isinstance(part, Mark)])
    count, last = 0, float("-inf")
    for top in tops:
        if top - last > 0.5 * height:
            count, last = count + 1, top
    return count + sum(_COLUMN_LINES for part in side if isinstance(part, Table))


def _table(marks: Sequence[Mark]) -> tuple[list[Mark], Table, list[Mark]] | None:
    """The table in a run of marks, and what stands before and after it, with one cell a line."""
    rows = rows_of(marks)
    first, last = 0, len(rows)
    while first < last and len(rows[first]) == 1:
        first += 1
    while last > first and len(rows[last - 1]) == 1:
        last -= 1
    # A row of a table may have one cell only, and be broken over lines: below the last full row it goes on.
    table = aligned_table([mark for row in rows[first:last] for mark in row])
    if table is None:
        return None
    before, after = ([mark for row in part for mark in row] for part in (rows[:first], rows[last:]))
    return before, table, after


def _center(part: _Part) -> float:
    return (part.box[0] + part.box[2]) / 2


def _body_size(marks: Sequence[Mark]) -> float:
    """The height of most of the text."""
    heights = sorted((mark.height, len(mark.text)) for mark in marks)
    half, seen = sum(chars for _, chars in heights) / 2, 0
    for height, chars in heights:
        seen += chars
        if seen >= half:
            return height
    return heights[-1][0]


def _line(row: Sequence[Mark]) -> _Line:
    first = row[0].words[0]
    return _Line(
        text=" ".join(mark.text for mark in row),
        box=around(mark.box for mark in row),
        at=around(mark.at for mark in row),
        size=max(row, key=lambda mark: len(mark.text)).height,
        first=first.right - first.left,
    )


def _paragraphs(lines: Sequence[_Line], body: float, thresholds: Sequence[float]) -> list[Block]:
    """Lines of one column as headings, paragraphs and items."""
    pitch = median([below.box[1] - above.box[1] for above, below in pairwise(lines)], body)
    rights = sorted((line.box[2] for line in lines), reverse=True)
    edge = rights[min(len(rights) - 1, len(rights) // 10)]
    groups: list[list[_Line]] = []
    for line in lines:
        if groups and _goes_on(groups[-1], line, pitch, edge, thresholds[-1]):
            groups[-1].append(line)
        else:
            groups.append([line])
    return [_block(group, body, thresholds) for group in groups]


def _goes_on(group: Sequence[_Line], line: _Line, pitch: float, edge: float, differs: float) -> bool:
    """Whether a line is of the same paragraph as those before it."""
    last = group[-1]
    small, large = sorted((last.size, line.size))
    if large > differs * small or _BULLET.match(line.text) or _NUMBER.match(line.text):
        return False
    if line.box[1] - last.box[1] > 1.3 * min(pitch, 2.2 * last.size):
        return False
    indented = line.box[0] - last.box[0] > 0.9 * line.size
    is_item = _BULLET.match(group[0].text) or _NUMBER.match(group[0].text)
    if indented and not (is_item and len(group) == 1):
        return False
    # Who had room for one more word and did not write it began anew.
    return bool(_BROKEN.search(last.text)) or edge - last.box[2] < line.first + 1.5 * line.size


def _block(group: Sequence[_Line], body: float, thresholds: Sequence[float]) -> Block:
    text, box = _joined([line.text for line in group]), around(line.at for line in group)
    ratio = max(line.size for line in group) / max(body, 0.1)
    for level, threshold in enumerate(thresholds, 1):
        short = len(group) <= 3 and len(text) <= _MOST_HEADING_CHARS
        if ratio >= threshold and short and any(char.isalpha() for char in text):
            return Block("heading", box, text, level=level)
    if bullet := _BULLET.match(text):
        return Block("item", box, f"- {text[bullet.end() :]}")
    if _NUMBER.match(text) and text[0].isdigit():
        return Block("item", box, text)
    return Block("paragraph", box, text)


def _joined(lines: Sequence[str]) -> str:
    """Lines as one text; a word that was broken at the end of a line is whole again."""
    text = lines[0]
    for line in lines[1:]:
        is_broken = _BROKEN.search(text) and line[:1].islower()
        text = text[:-1] + line if is_broken else f"{text} {line}"
    return text
