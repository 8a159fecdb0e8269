"""A PDF: its pages as pictures and their text layer, by PDFium; for the process that reads pages."""

import re
from pathlib import Path

import pypdfium2
import pypdfium2.raw as pdfium
from PIL import Image

from worker.documents.frames import too_many_pixels
from worker.documents.text_layer import TextLayer, text_layer
from worker.errors import InputUnavailable

#: Points of an inch.
POINTS = 72
_NO_PAGES = re.compile(rb"/Kids\s*\[\s*\]")


class Pdf:
    """A PDF, measured in points. Pages count from 1.

    Args:
        path: of the file.
        name: in messages.
        most_pixels: a page may have when it is looked at.

    Raises:
        InputUnavailable: it is broken, has no pages, or wants a password.
    """

    kind = "pdf"

    def __init__(self, path: Path, name: str, most_pixels: int) -> None:
        self._name, self._most_pixels = name, most_pixels
        try:
            self._document = pypdfium2.PdfDocument(path)
            self._document.init_forms()  # it draws what is filled in without an appearance
        except pypdfium2.PdfiumError as error:
            if error.err_code in {pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY}:
                raise InputUnavailable(
                    f"{name} is encrypted and wants a password.", "Remove the password, and send it again."
                ) from None
            if _NO_PAGES.search(path.read_bytes()):  # PDFium finds that broken
                raise InputUnavailable(f"{name} is a PDF without pages.", "Send one that has some.") from None
            raise InputUnavailable(
                f"{name} is a broken PDF: it is truncated or damaged.", "Send the whole file again."
            ) from None
        self.count = len(self._document)

    def picture(self, page: int, dpi: float, longest_side: int | None = None) -> Image.Image:
        """A page, upright, RGB, at `dpi` and no longer than `longest_side`.

        Raises:
            InputTooLarge: it would have more pixels than it may.
            InputUnavailable: it is broken.
        """
        opened = self.open(page)
        try:
            width, height = opened.get_size()
            scale = dpi / POINTS
            if longest_side is not None:
                scale = min(scale, longest_side / max(width, height, 1))
            size = (round(width * scale), round(height * scale))
            if size[0] * size[1] > self._most_pixels:
                raise too_many_pixels(
                    f"Page {page} of {self._name}, at {dpi:g} dpi,",
                    size,
                    self._most_pixels,
                    "Ask for a lower `dpi`, or raise MAX_IMAGE_PIXELS on the worker.",
                )
            picture: Image.Image = opened.render(scale=scale, rev_byteorder=True).to_pil()
            return picture.convert("RGB")
        except pypdfium2.PdfiumError as error:
            raise self._broken(page, error) from None
        finally:
            opened.close()

    def size(self, page: int) -> tuple[float, float]:
        """Width and height of a page."""
        opened = self.open(page)
        try:
            width, height = opened.get_size()
            return round(width, 2), round(height, 2)
        finally:
            opened.close()

    def text(self, page: int) -> TextLayer:
        """The text layer of a page.

        Raises:
            InputUnavailable: it is broken.
        """
        opened = self.open(page)
        try:
            return text_layer(opened)
        except pypdfium2.PdfiumError as error:
            raise self._broken(page, error) from None
        finally:
            opened.close()

    def open(self, page: int) -> pypdfium2.PdfPage:
        """A page, with what is filled in and stamped on it as part of it; close it.

        Raises:
            InputUnavailable: it is broken.
        """
        try:
            opened = self._document[page - 1]
            if pdfium.FPDFPage_GetAnnotCount(opened.raw) == 0:
                return opened
            pdfium.FPDFPage_Flatten(opened.raw, pdfium.FLAT_NORMALDISPLAY)
            opened.close()
            return self._document[page - 1]
        except pypdfium2.PdfiumError as error:
            raise self._broken(page, error) from None

    def close(self) -> None:
        """Close the file."""
        self._document.close()

    def _broken(self, page: int, error: Exception) -> InputUnavailable:
        return InputUnavailable(
            f"Page {page} of {self._name} is broken: {error}", "Send the whole file again."
        )
