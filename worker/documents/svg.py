"""An SVG drawing: what it says, and what it looks like, without anything that is not in it; by resvg."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes
from xml.etree.ElementTree import Element, ParseError, tostring

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException
from PIL import Image

from worker.documents.frames import Pictures, too_many_pixels
from worker.errors import InputUnavailable, SettingsError

#: Of a drawing that does not say its size, pixels.
_SIZE = (1024.0, 768.0)
_ROOT = re.compile(
    rb"\A(?:\xef\xbb\xbf)?(?:<\?[^>]*>|<!--(?:(?!-->).)*-->|<!DOCTYPE[^>\[]*>|\s)*<(?:\w+:)?svg\b", re.DOTALL
)
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(px|pt|pc|mm|cm|in)?\s*$")
_UNITS = {None: 1.0, "px": 1.0, "pt": 96 / 72, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0}
_WITHIN = re.compile(r"\s*(?:#|data:image/(?:png|jpe?g|gif|webp)[;,])", re.IGNORECASE)
_PICTURES = ("PNG", "JPEG", "GIF", "WEBP")
_LINK = re.compile(r"url\(\s*(['\"]?)(?!\s*#)[^)]*\)|@import[^;]*;?", re.IGNORECASE)
#: Characters of what it says.
_MOST_WORDS = 8_000


def is_svg(data: bytes) -> bool:
    """Whether it begins as a drawing does."""
    return _ROOT.match(data[:4096]) is not None


def _texts(root: Element) -> Iterator[Element]:
    """Those that say something, without those inside of others, in their order."""
    waiting = [root]
    while waiting:
        element = waiting.pop()
        if isinstance(element.tag, str) and element.tag.rpartition("}")[2] in {"text", "foreignObject"}:
            yield element
        else:
            waiting += reversed(element)


class Svg(Pictures):
    """A drawing as a picture of any size; its own is in pixels, 96 to an inch.

    Raises:
        InputUnavailable: it is broken, or defines entities.
    """

    def __init__(self, path: Path, name: str, most_pixels: int) -> None:
        self._name, self._most_pixels = name, most_pixels
        self.count = 1
        self._root = _read(path.read_bytes(), name)
        _keep_within(self._root, most_pixels)

    def picture(self, page: int, _dpi: float = 0, longest_side: int | None = None) -> Image.Image:
        """The drawing on white, as long as `longest_side`, or as it says.

        Raises:
            InputTooLarge: it would have too many pixels.
            InputUnavailable: it cannot be drawn.
        """
        try:
            import resvg_py
        except ImportError:
            raise SettingsError("SVG drawings need resvg: pip install 'kc-worker[ocr]'.") from None
        width, height = _size(self._root)
        scale = 1.0 if longest_side is None else longest_side / max(width, height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if size[0] * size[1] > self._most_pixels:
            raise too_many_pixels(self._name, size, self._most_pixels, "Make it smaller.")
        self._root.attrib.setdefault("viewBox", f"0 0 {width:g} {height:g}")
        self._root.attrib.update(width=str(size[0]), height=str(size[1]))
        try:
            drawn = resvg_py.svg_to_bytes(
                svg_string=tostring(self._root, encoding="unicode"), background="white"
            )
        except ValueError as error:
            raise InputUnavailable(f"{self._name} is an SVG that cannot be drawn: {error}.") from None
        return Image.open(io.BytesIO(drawn)).convert("RGB")

    def words(self) -> str:
        """What is written in it, a line each."""
        said = (" ".join("".join(element.itertext()).split()) for element in _texts(self._root))
        return "\n".join(dict.fromkeys(line for line in said if line))[:_MOST_WORDS]

    def size(self, page: int) -> tuple[int, int]:
        """Width and height, as it says."""
        width, height = _size(self._root)
        return round(width), round(height)


def _read(data: bytes, name: str) -> Element:
    try:
        root: Element = defusedxml.ElementTree.fromstring(data)
    except ParseError as error:
        raise InputUnavailable(f"{name} is a broken SVG: {error}.") from None
    except (DefusedXmlException, ValueError, LookupError):
        raise InputUnavailable(f"{name} is an SVG that defines entities, or cannot be decoded.") from None
    return root


def _keep_within(root: Element, most_pixels: int) -> None:
    """Forget everything that is elsewhere: files, addresses, drawings in drawings; and pictures too large.

    Args:
        root: of the drawing.
        most_pixels: all pictures in it may have.
    """
    left = most_pixels
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key.rpartition("}")[2] in {"href", "src"}:
                size = _pixels_of(value) if _WITHIN.match(value) else None
                if size is None or size > left:
                    del element.attrib[key]
                else:
                    left -= size
            elif "url(" in value.lower():
                element.attrib[key] = _LINK.sub("none", value)
        if isinstance(element.tag, str) and element.tag.rpartition("}")[2] == "style":
            element.text = _LINK.sub("none", element.text or "")


def _pixels_of(link: str) -> int | None:
    """Pixels of the picture that a link holds, by its header; None: it holds none."""
    if link.lstrip().startswith("#"):
        return 0
    head, _, data = link.partition(",")
    raw = unquote_to_bytes(data)
    try:
        if head.rstrip().lower().endswith(";base64"):
            raw = base64.b64decode(raw)
        with Image.open(io.BytesIO(raw), formats=_PICTURES) as picture:
            return picture.width * picture.height
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError):
        return None


def _size(root: Element) -> tuple[float, float]:
    """Width and height: as it says, as its view has, or any."""
    width, height = (_pixels(root.get(side, "")) for side in ("width", "height"))
    view = [float(part) for part in re.findall(r"-?\d+(?:\.\d+)?", root.get("viewBox", ""))]
    if width and height:
        return width, height
    if len(view) == 4 and view[2] > 0 and view[3] > 0:
        return view[2], view[3]
    return _SIZE


def _pixels(length: str) -> float:
    found = _NUMBER.match(length)
    return float(found[1]) * _UNITS[found[2]] if found else 0.0
