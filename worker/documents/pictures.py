"""Pictures: what they are by their content, within limits, upright, and no larger than a model looks at."""

import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from worker.errors import InputTooLarge, InputUnavailable

#: Formats that are opened, and their media types; Pillow knows many more, some of them seldom looked at.
FORMATS = {
    "PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif", "BMP": "image/bmp",
    "TIFF": "image/tiff",
}  # fmt: skip
_JPEG_QUALITY = 90

#: Pillow's own limit is one for all programs; ours is asked before any pixel is unpacked.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a model gets it.

    Attributes:
        data: PNG or JPEG.
        media_type: of `data`.
        width, height: of it, pixels.
        original: width and height as it came, upright.
        format: as it came: PNG, JPEG …
    """

    data: bytes
    media_type: str
    width: int
    height: int
    original: tuple[int, int]
    format: str


@dataclass(frozen=True, slots=True)
class Look:
    """How much of a picture is looked at.

    Attributes:
        most_pixels: it may have as it comes.
        longest_side: pixels of its longer side as it is handed on.
    """

    most_pixels: int = 50_000_000
    longest_side: int = 1024


def read_picture(data: bytes, name: str, look: Look) -> Picture:
    """A picture, upright and small enough; of several frames the first. Blocking.

    Args:
        data: of a file.
        name: in messages.
        look: its limits.

    Raises:
        InputTooLarge: it has more pixels than it may; it is not unpacked then.
        InputUnavailable: it is no picture, or is broken.
    """
    side = (look.longest_side, look.longest_side)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow finds odd; the limit is ours
            with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as opened:
                width, height = opened.size
                if width * height > look.most_pixels:
                    raise InputTooLarge(
                        f"{name} has {width:,} x {height:,} pixels, the limit is {look.most_pixels:,}.",
                        "Make it smaller, or raise MAX_IMAGE_PIXELS on the worker.",
                    )
                kind = str(opened.format)
                opened.seek(0)
                if kind == "JPEG":
                    opened.draft("RGB", side)
                upright = ImageOps.exif_transpose(opened)
                turned = upright.size != opened.size and width != height
                original = (height, width) if turned else (width, height)
                upright.thumbnail(side, Image.Resampling.LANCZOS)
                return _packed(upright, original, kind)
    except UnidentifiedImageError:
        raise InputUnavailable(
            f"{name} is {what_it_is(data)}, not a picture ({', '.join(FORMATS)})."
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        raise InputUnavailable(f"{name} is a broken picture: {error}.") from None


def _packed(picture: Image.Image, original: tuple[int, int], kind: str) -> Picture:
    """Photographs as JPEG, everything with few colours or transparency as PNG."""
    buffer = io.BytesIO()
    has_alpha = "A" in picture.getbands() or "transparency" in picture.info
    if has_alpha:
        flat = Image.new("RGB", picture.size, "white")
        rgba = picture.convert("RGBA")
        flat.paste(rgba, mask=rgba.getchannel("A"))
        picture = flat
    if kind in {"JPEG", "WEBP"} and not has_alpha:
        picture.convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY)
        media_type = "image/jpeg"
    else:
        picture.convert("RGB").save(buffer, "PNG")
        media_type = "image/png"
    return Picture(buffer.getvalue(), media_type, *picture.size, original, kind)


#: Beginnings of what is often sent instead of a picture.
_BEGINNINGS = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "XML"),
    (b"{", "JSON"),
)


def what_it_is(data: bytes) -> str:
    """What bytes are, in words, by how they begin."""
    if not data:
        return "empty"
    head = data[:512].lstrip().lower()
    for beginning, name in _BEGINNINGS:
        if head.startswith(beginning.lower()):
            return name
    return "something else"
