"""The text layer of a PDF's page: what PDFium says of every character, and what is drawn around them."""

import ctypes
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from worker.documents.marks import Box, Mark, Rule, Word

#: Heights of a character between two of the same run, at most; more is the next column.
_GAP = 1.0
#: Characters looked at of one page, and pieces of drawings.
_MOST_CHARS, _MOST_PIECES = 200_000, 20_000
#: A line is thinner than this, and longer than that; points.
_THIN, _LONG = 2.5, 8.0
#: Degrees by which text that runs from left to right may be off.
_LEVEL = 10.0
#: Share of a page that pictures cover, from which it may be a scan; characters it has then if it is none.
_SCAN_SHARE, _SCAN_CHARS = 0.5, 100
#: Share of characters that are none, from which a layer is junk.
_JUNK_SHARE = 0.1
#: Share of a page that its text covers at least where pictures cover all of it: a long stamp covers less.
_COVERED, _LEAST_TEXT = 0.9, 0.05
#: Forms inside of forms that are looked into.
_MOST_DEPTH = 15

_INVISIBLE = pdfium.FPDF_TEXTRENDERMODE_INVISIBLE
_To = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class TextLayer:
    """A page as its file describes it.

    Attributes:
        width: points.
        height: points.
        marks: its text.
        rules: straight lines.
        chars: that can be seen.
        hidden: characters that cannot.
        junk: characters that stand for no letter.
        pictures: share of the page that pictures cover, 0 to 1.
        drawn: whether something else is drawn.
        written: share of the page that its text covers.
    """

    width: float
    height: float
    marks: list[Mark]
    rules: list[Rule]
    chars: int
    hidden: int
    junk: int
    pictures: float
    drawn: bool
    written: float

    @property
    def is_real(self) -> bool:
        """Whether the page says in letters what can be seen on it."""
        if self.chars == 0:
            return self.hidden == 0 and self.pictures == 0 and not self.drawn
        if self.junk > _JUNK_SHARE * self.chars:
            return False
        if self.pictures >= _COVERED and self.written < _LEAST_TEXT:
            return False
        return self.pictures < _SCAN_SHARE or self.chars >= _SCAN_CHARS


@dataclass(slots=True)
class _Char:
    text: str
    box: Box
    level: bool


def text_layer(page: pypdfium2.PdfPage) -> TextLayer:
    """Read it.

    Raises:
        pypdfium2.PdfiumError: the page is broken.
    """
    width, height = page.get_size()
    to = _to_page(page, width, height)
    rules, pictures, drawn = _drawings(page, to, width * height)
    text = page.get_textpage()
    try:
        count = min(text.count_chars(), _MOST_CHARS)
        hidden = _hidden(text.raw, count)
        chars = list(_chars(text.raw, [n for n in range(count) if n not in hidden], to))
        layer = chars or list(_chars(text.raw, range(count), to))  # better than nothing, where that is asked
    finally:
        text.close()
    seen = [char for char in chars if char and not char.text.isspace()]
    junk = sum(map(_is_junk, (char.text for char in seen))) + 5 * "".join(c.text for c in seen).count("(cid:")
    written = sum((c.box[2] - c.box[0]) * (c.box[3] - c.box[1]) for c in seen) / max(width * height, 1.0)
    marks, pictures = list(_marks(layer)), min(1.0, pictures)
    return TextLayer(
        width, height, marks, rules, len(seen), len(hidden), junk, pictures, drawn, min(1.0, written)
    )


def _to_page(page: pypdfium2.PdfPage, width: float, height: float) -> _To:
    """From a page's own coordinates, which may be turned and begin anywhere, to those it is looked at in."""
    fine = 1000
    size = (round(width * fine), round(height * fine))

    def device(x: float, y: float) -> tuple[float, float]:
        at_x, at_y = ctypes.c_int(), ctypes.c_int()
        pdfium.FPDF_PageToDevice(page.raw, 0, 0, *size, 0, x, y, ctypes.byref(at_x), ctypes.byref(at_y))
        return at_x.value / fine, at_y.value / fine

    span = 1000.0
    (x0, y0), (xa, ya), (xb, yb) = device(0, 0), device(span, 0), device(0, span)
    ax, ay, bx, by = (xa - x0) / span, (ya - y0) / span, (xb - x0) / span, (yb - y0) / span
    return lambda x, y: (x0 + ax * x + bx * y, y0 + ay * x + by * y)


def _box(to: _To, left: float, bottom: float, right: float, top: float) -> Box:
    (xa, ya), (xb, yb) = to(left, bottom), to(right, top)
    return min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)


def _hidden(text: Any, count: int) -> set[int]:
    """Characters that are written so that nobody sees them."""
    modes: dict[int, bool] = {}
    found = set()
    for number in range(count):
        if pdfium.FPDFText_IsGenerated(text, number) == 1:
            continue
        drawn = pdfium.FPDFText_GetTextObject(text, number)
        key = ctypes.cast(drawn, ctypes.c_void_p).value or 0
        if key not in modes:
            modes[key] = bool(key) and pdfium.FPDFTextObj_GetTextRenderMode(drawn) == _INVISIBLE
        if modes[key]:
            found.add(number)
    return found


def _chars(text: Any, numbers: Any, to: _To) -> Iterator[_Char]:
    """Characters in the order they are written; any space is " "."""
    rect, high = pdfium.FS_RECTF(), 0
    for number in numbers:
        code = pdfium.FPDFText_GetUnicode(text, number)
        if 0xD800 <= code < 0xDC00:
            high = code
            continue
        if 0xDC00 <= code < 0xE000:
            code = 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00) if high else 0xFFFD
        high = 0
        if code in {0x02, 0xAD, 0xFFFE} or pdfium.FPDFText_IsHyphen(text, number) == 1:
            code = 0x2D
        if code == 0 or not pdfium.FPDFText_GetLooseCharBox(text, number, ctypes.byref(rect)):
            continue
        char = chr(code)
        if char in "\r\n":
            char = "\n"
        elif char.isspace():
            char = " "
        angle = pdfium.FPDFText_GetCharAngle(text, number)  # clockwise, on the page as it is written
        (x0, y0), (x1, y1) = to(0, 0), to(math.cos(angle), -math.sin(angle))
        off = abs(math.degrees(math.atan2(y1 - y0, x1 - x0)))
        yield _Char(char, _box(to, rect.left, rect.bottom, rect.right, rect.top), off < _LEVEL)


def _is_junk(char: str) -> bool:
    """Whether it is one that fonts without a map to letters are read as."""
    code = ord(char)
    return code == 0xFFFD or code < 0x20 or 0xE000 <= code < 0xF900 or code >= 0xF0000


def _marks(chars: list[_Char]) -> Iterator[Mark]:
    """Runs of characters that follow each other on one line without a wide gap."""
    run: list[_Char] = []
    for char in chars:
        if char.text == "\n":
            yield from _mark(run)
            run = []
            continue
        if run and char.text != " " and not _goes_on(run, char):
            yield from _mark(run)
            run = []
        run.append(char)
    yield from _mark(run)


def _goes_on(run: list[_Char], char: _Char) -> bool:
    last = next((one for one in reversed(run) if one.text != " "), None)
    if last is None or last.level != char.level:
        return last is None
    if not char.level:
        return True
    height = max(last.box[3] - last.box[1], 0.1)
    if abs((char.box[1] + char.box[3]) - (last.box[1] + last.box[3])) / 2 > 0.6 * height:
        return False
    gap = char.box[0] - last.box[2]
    return -height < gap < _GAP * height


def _mark(run: list[_Char]) -> Iterator[Mark]:
    words, word = [], []
    for char in [*run, _Char(" ", (0, 0, 0, 0), True)]:
        if char.text != " ":
            word.append(char)
        elif word:
            words.append(
                Word("".join(c.text for c in word), min(c.box[0] for c in word), max(c.box[2] for c in word))
            )
            word = []
    seen = [char for char in run if char.text != " "]
    if seen:
        box = (
            min(c.box[0] for c in seen), min(c.box[1] for c in seen),
            max(c.box[2] for c in seen), max(c.box[3] for c in seen),
        )  # fmt: skip
        yield Mark(tuple(words), box, box, level=seen[0].level)


def _drawings(page: pypdfium2.PdfPage, to: _To, area: float) -> tuple[list[Rule], float, bool]:
    """Straight lines, the share of the page that pictures cover, and whether anything is drawn."""
    rules: list[Rule] = []
    pictures, drawn = 0.0, False
    sides = [ctypes.c_float() for _ in range(4)]
    for number, (thing, within) in enumerate(_things(page)):
        if number > _MOST_PIECES:
            break
        kind = pdfium.FPDFPageObj_GetType(thing)
        if kind in {pdfium.FPDF_PAGEOBJ_PATH, pdfium.FPDF_PAGEOBJ_SHADING}:
            drawn = True
            if kind == pdfium.FPDF_PAGEOBJ_PATH and len(rules) < _MOST_PIECES:
                rules += _rules(thing, _matrix(thing).multiply(within), to)
        elif kind == pdfium.FPDF_PAGEOBJ_IMAGE and pdfium.FPDFPageObj_GetBounds(thing, *sides):
            left, top, right, bottom = _box(to, *within.on_rect(*(side.value for side in sides)))
            pictures += (right - left) * (bottom - top) / max(area, 1.0)
    return rules, pictures, drawn


def _things(page: pypdfium2.PdfPage) -> Iterator[tuple[Any, pypdfium2.PdfMatrix]]:
    """What is drawn, and the matrix from its coordinates to the page's: that of the forms it is in."""
    count = pdfium.FPDFPage_CountObjects(page.raw)
    waiting = [
        (pdfium.FPDFPage_GetObject(page.raw, number), pypdfium2.PdfMatrix(), 0) for number in range(count)
    ]
    waiting.reverse()
    while waiting:
        thing, within, depth = waiting.pop()
        if pdfium.FPDFPageObj_GetType(thing) != pdfium.FPDF_PAGEOBJ_FORM:
            yield thing, within
        elif depth < _MOST_DEPTH:
            inner = _matrix(thing).multiply(within)
            count = pdfium.FPDFFormObj_CountObjects(thing)
            waiting += [
                (pdfium.FPDFFormObj_GetObject(thing, number), inner, depth + 1)
                for number in reversed(range(count))
            ]


def _matrix(thing: Any) -> pypdfium2.PdfMatrix:
    found = pdfium.FS_MATRIX()
    pdfium.FPDFPageObj_GetMatrix(thing, ctypes.byref(found))
    return pypdfium2.PdfMatrix.from_raw(found)


def _rules(path: Any, matrix: pypdfium2.PdfMatrix, to: _To) -> list[Rule]:
    """The straight lines of a path; of a thin rectangle its two long sides."""
    fill, stroke = ctypes.c_int(), ctypes.c_int()
    if not pdfium.FPDFPath_GetDrawMode(path, ctypes.byref(fill), ctypes.byref(stroke)):
        return []
    if not fill.value and not stroke.value:
        return []
    found: list[Rule] = []
    first = last = (0.0, 0.0)
    x, y = ctypes.c_float(), ctypes.c_float()
    for number in range(min(pdfium.FPDFPath_CountSegments(path), 2000)):
        segment = pdfium.FPDFPath_GetPathSegment(path, number)
        if not pdfium.FPDFPathSegment_GetPoint(segment, ctypes.byref(x), ctypes.byref(y)):
            continue
        here = to(*matrix.on_point(x.value, y.value))
        kind = pdfium.FPDFPathSegment_GetType(segment)
        if kind == pdfium.FPDF_SEGMENT_MOVETO:
            first = here
        elif kind == pdfium.FPDF_SEGMENT_LINETO:
            found += _rule(last, here)
        if pdfium.FPDFPathSegment_GetClose(segment):
            found += _rule(here, first)
        last = here
    return found


def _rule(start: tuple[float, float], end: tuple[float, float]) -> list[Rule]:
    (xa, ya), (xb, yb) = start, end
    if abs(ya - yb) < _THIN and abs(xa - xb) > _LONG:
        return [Rule(is_level=True, at=(ya + yb) / 2, start=min(xa, xb), end=max(xa, xb))]
    if abs(xa - xb) < _THIN and abs(ya - yb) > _LONG:
        return [Rule(is_level=False, at=(xa + xb) / 2, start=min(ya, yb), end=max(ya, yb))]
    return []
