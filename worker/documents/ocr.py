"""Text that is only a picture of text: PP-OCRv6 by RapidOCR, from the models inside its package.

Nothing is downloaded: the models are given by their paths, and are either there or missing.
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.documents.marks import Box, Mark, Rule, Word, median

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

#: What reads, and its version: part of what results are kept under.
ENGINE = "PP-OCRv6_small"
#: What `sample` says.
SAMPLE = "Ready to read 2026"
_FILES = ("PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx")
#: Pixels of the longer side of a page in which text is looked for, and in which it is read.
_FIND_SIDE, _READ_SIDE = 1600, 2400
#: Lines that are less sure are left out.
_LEAST_CONFIDENCE = 0.3
#: A page that is less sure may lie on its side or head; it is tried turned.
_TURN_BELOW = 0.8
#: Share of lines that stand upright, from which a page lies on its side.
_ON_ITS_SIDE = 0.6


@dataclass(frozen=True, slots=True)
class Scan:
    """A page as it was read; pixels of the picture after it was turned.

    Attributes:
        marks: its text.
        rules: straight lines, on the page made level.
        confidence: 0 to 1, of all characters; 0 where none was found.
        turned: degrees clockwise by which the picture was turned: 0, 90, 180 or 270.
        width: pixels.
        height: pixels.
    """

    marks: list[Mark]
    rules: list[Rule]
    confidence: float
    turned: int
    width: int
    height: int


def models() -> dict[str, bool]:
    """The models' files, and whether they are there; none is there where RapidOCR is not installed."""
    found = find_spec("rapidocr")
    folder = Path(found.origin).parent / "models" if found and found.origin else None
    return {name: folder is not None and (folder / name).is_file() for name in _FILES}


class Ocr:
    """The engine; its models are loaded when it is made.

    Args:
        threads: to compute with.

    Raises:
        ImportError: RapidOCR is not installed, or not with its models.
    """

    def __init__(self, threads: int) -> None:
        if missing := [name for name, there in models().items() if not there]:
            raise ImportError(f"{', '.join(missing)} are missing; pip install 'kc-worker[ocr]'")
        import rapidocr

        folder = Path(rapidocr.__file__).parent / "models"
        find, read = (str(folder / name) for name in _FILES)
        self._engine = rapidocr.RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,
                "Global.text_score": _LEAST_CONFIDENCE,
                "Global.max_side_len": _READ_SIDE,
                "Det.model_path": find,
                "Det.limit_type": "max",
                "Det.limit_side_len": _FIND_SIDE,
                "Rec.model_path": read,
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def read(self, picture: "Image.Image") -> Scan:
        """Read a page, RGB, as it lies or turned, whatever is surer."""
        import numpy as np

        pixels = np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
        scan, on_its_side = self._read(pixels, 0)
        if scan.marks and (on_its_side or scan.confidence < _TURN_BELOW):
            for turned in (90, 270) if on_its_side else (180,):
                # Counter-clockwise is what `rot90` turns.
                again, _ = self._read(np.ascontiguousarray(np.rot90(pixels, -turned // 90)), turned)
                if again.confidence > scan.confidence or (on_its_side and not scan.turned):
                    scan = again
                if scan.turned and scan.confidence >= _TURN_BELOW:
                    break
        return scan

    def _read(self, pixels: "np.ndarray[Any, Any]", turned: int) -> tuple[Scan, bool]:
        """A page as it is, and whether most of its lines stand upright."""
        height, width = pixels.shape[:2]
        found: Any = self._engine(pixels)
        if getattr(found, "boxes", None) is None or not len(found.boxes):
            return Scan([], [], 0.0, turned, width, height), False
        quads = [[(float(x), float(y)) for x, y in quad] for quad in found.boxes]
        upright = sum(_length(q[0], q[3]) > 1.5 * _length(q[0], q[1]) for q in quads)
        angle = median([_angle(q[0], q[1]) for q in quads if _length(q[0], q[1]) > 2 * _length(q[0], q[3])])
        level = _Level(angle, width / 2, height / 2)
        marks = [
            _mark(text, quad, level, float(score))
            for text, quad, score in zip(found.txts, quads, found.scores, strict=True)
            if text.strip()
        ]
        chars = sum(len(mark.text) for mark in marks)
        confidence = sum(mark.confidence * len(mark.text) for mark in marks) / max(chars, 1)
        scan = Scan(marks, _rules(pixels, angle), confidence, turned, width, height)
        return scan, upright > _ON_ITS_SIDE * len(quads)


def sample() -> "Image.Image":
    """A line of text, to see whether it is read."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (640, 120), "white")
    ImageDraw.Draw(picture).text((40, 35), SAMPLE, font=ImageFont.load_default(40), fill="black")
    return picture


class _Level:
    """Turns a page by a small angle about its middle, so that its lines are level."""

    def __init__(self, angle: float, x: float, y: float) -> None:
        self._cos, self._sin, self._x, self._y = math.cos(-angle), math.sin(-angle), x, y

    def __call__(self, point: tuple[float, float]) -> tuple[float, float]:
        x, y = point[0] - self._x, point[1] - self._y
        return self._x + x * self._cos - y * self._sin, self._y + x * self._sin + y * self._cos


def _mark(text: str, quad: list[tuple[float, float]], level: _Level, confidence: float) -> Mark:
    """A line; its words get shares of it by their characters."""
    # By its middle and its sides: a box around a long line that is not quite level is higher than the line.
    x, y = level((sum(point[0] for point in quad) / 4, sum(point[1] for point in quad) / 4))
    half_width = (_length(quad[0], quad[1]) + _length(quad[3], quad[2])) / 4
    half_height = (_length(quad[0], quad[3]) + _length(quad[1], quad[2])) / 4
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    words, at, width = [], 0, box[2] - box[0]
    for word in text.split():
        start = text.index(word, at)
        at = start + len(word)
        words.append(Word(word, box[0] + width * start / len(text), box[0] + width * at / len(text)))
    return Mark(tuple(words), box, _box(quad), confidence)


def _box(points: list[tuple[float, float]]) -> Box:
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _length(start: tuple[float, float], end: tuple[float, float]) -> float:
    return math.hypot(end[0] - start[0], end[1] - start[1])


def _angle(start: tuple[float, float], end: tuple[float, float]) -> float:
    return math.atan2(end[1] - start[1], end[0] - start[0])


def _rules(pixels: "np.ndarray[Any, Any]", angle: float) -> list[Rule]:
    """Straight lines of a picture turned level: what is left of it when all that is shorter is worn away."""
    import cv2

    height, width = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), math.degrees(angle), 1.0)
    gray: Any = cv2.warpAffine(
        cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), turn, (width, height), borderValue=(255, 255, 255)
    )
    ink = cv2.adaptiveThreshold(gray, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, 31, 15)
    found: list[Rule] = []
    length = max(30, max(width, height) // 45)
    for is_level in (True, False):
        # What is thin and nearly level is broken by the pixels: it is made thicker across first.
        thick = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_RECT, (1, 3) if is_level else (3, 1)))
        kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (length, 1) if is_level else (1, length))
        lines = cv2.morphologyEx(thick, cv2.MORPH_OPEN, kernel)
        _, _, stats, _ = cv2.connectedComponentsWithStats(lines, connectivity=8)
        for x, y, w, h, _ in stats[1:]:
            along, across = (int(w), int(h)) if is_level else (int(h), int(w))
            if across <= max(12, along // 12):
                start = int(x) if is_level else int(y)
                at = (int(y) + int(h) / 2) if is_level else (int(x) + int(w) / 2)
                found.append(Rule(is_level, at, start, start + along))
    return found
