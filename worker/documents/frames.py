"""A picture as a document: its frames are pages; for the process that reads pages."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageOps, UnidentifiedImageError

from worker.documents.pictures import FORMATS, what_it_is
from worker.errors import InputTooLarge, InputUnavailable

T = TypeVar("T")

#: Formats in which several frames are several pages, not an animation.
_PAGED = {"TIFF"}
#: What Pillow raises of broken files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError)


class Pictures:
    """A picture, measured in pixels; of a TIFF every frame is a page. Pages count from 1.

    Args:
        path: of the file.
        name: in messages.
        most_pixels: a page may have.

    Raises:
        InputUnavailable: it is no picture, or broken.
        InputTooLarge: it has more pixels than it may.
    """

    kind = "picture"

    def __init__(self, path: Path, name: str, most_pixels: int) -> None:
        self._path, self._name, self._most_pixels = path, name, most_pixels
        self._sizes: dict[int, tuple[int, int]] = {}
        try:
            with self._opened() as file:
                frames = int(getattr(file, "n_frames", 1)) if file.format in _PAGED else 1
                self._check(file, 1)
        except UnidentifiedImageError:
            with path.open("rb") as file:
                what = what_it_is(file.read(1024))
            raise InputUnavailable(
                f"{name} is {what}, neither a PDF nor a picture ({', '.join(FORMATS)}).",
                "Send one of those.",
            ) from None
        except _BROKEN as error:
            raise self._broken(error) from None
        self.count = frames

    def picture(self, page: int, _dpi: float = 0, longest_side: int | None = None) -> Image.Image:
        """A page, upright, RGB, no longer than `longest_side`; errors as when it is made."""
        try:
            with self._opened() as file:
                _quietly(lambda: file.seek(page - 1))
                self._check(file, page)
                upright = _quietly(lambda: ImageOps.exif_transpose(file))
            if upright.mode.startswith("I"):  # scanners' 16 bits of gray, of which Pillow keeps the lower 8
                upright = upright.convert("I").point(lambda value: value * (1 / 256)).convert("L")
            if "A" in upright.getbands() or "transparency" in upright.info:
                flat = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(flat, upright.convert("RGBA"))
            upright = upright.convert("RGB")
        except _BROKEN as error:
            raise self._broken(error) from None
        self._sizes[page] = upright.size
        if longest_side is not None:
            upright.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
        return upright

    def size(self, page: int) -> tuple[int, int]:
        """Width and height of a page."""
        return self._sizes.get(page) or self.picture(page).size

    def close(self) -> None:
        """Nothing is open."""

    def _opened(self) -> Image.Image:
        return _quietly(lambda: Image.open(self._path, formats=tuple(FORMATS)))

    def _check(self, file: Image.Image, page: int) -> None:
        width, height = file.size
        if width * height > self._most_pixels:
            raise too_many_pixels(
                f"Page {page} of {self._name}" if page > 1 else self._name,
                file.size,
                self._most_pixels,
                "Make it smaller, or raise MAX_IMAGE_PIXELS on the worker.",
            )

    def _broken(self, error: Exception) -> InputUnavailable:
        return InputUnavailable(f"{self._name} is a broken picture: {error}.", "Send it again, or as PNG.")


def too_many_pixels(name: str, size: tuple[int, int], most_pixels: int, hint: str) -> InputTooLarge:
    """The error for a page."""
    return InputTooLarge(f"{name} has {size[0]:,} x {size[1]:,} pixels, the limit is {most_pixels:,}.", hint)


def png(picture: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _quietly(do: Callable[[], T]) -> T:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow finds odd; the limits are ours
        return do()
