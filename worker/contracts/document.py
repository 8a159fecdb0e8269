"""`document.ocr`."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired, TypedDict

from pydantic import Field, field_validator

from worker.contracts.base import Input, Language, Meta
from worker.contracts.llm import Sampling
from worker.errors import InvalidTask

_RANGES = re.compile(r"\d{1,6}(-(\d{1,6})?)?(,\d{1,6}(-(\d{1,6})?)?)*")

OcrMode = Literal["auto", "text", "ocr", "vlm"]


class OcrArguments(Sampling):
    """`document.ocr`.

    Attributes:
        document: a PDF, or a picture; of a TIFF every frame is a page.
        pages: which to read, as "1-3,7" or [1, 2, 3, 7], "5-" is from the fifth on; None: all.
        mode: "text" takes the text layer, "ocr" reads the picture of the page, "vlm" shows it to the model,
            "auto" decides page by page.
        language: ISO 639 code of the document, for the model.
        dpi: dots an inch in which a PDF's pages are looked at.
    """

    document: Input
    pages: (
        Annotated[str, Field(max_length=1000)]
        | Annotated[list[int], Field(min_length=1, max_length=1000)]
        | None
    ) = None
    mode: OcrMode = "auto"
    language: Language = "auto"
    dpi: int = Field(default=200, ge=72, le=600)

    @field_validator("pages")
    @classmethod
    def _ranges(cls, value: str | list[int] | None) -> str | list[int] | None:
        if isinstance(value, str) and not _RANGES.fullmatch(value.replace(" ", "")):
            raise ValueError('give pages as "1-3,7", "5-", or a list of numbers')
        return value

    def chosen(self, count: int, most: int) -> Sequence[int]:
        """The pages to read of so many, in their order, each once.

        Args:
            count: pages the document has.
            most: that may be read.

        Raises:
            InvalidTask: one is asked for that is not there, or they are too many.
        """
        if self.pages is None:
            ranges = [(1, count)]
        elif isinstance(self.pages, str):
            ranges = [_range(part, count) for part in self.pages.replace(" ", "").split(",")]
        else:
            ranges = [(page, page) for page in self.pages]
        ranges = sorted((first, last) for first, last in ranges if first <= last)
        if wrong := [page for one in ranges for page in one if not 1 <= page <= count]:
            raise InvalidTask(f"`pages`: there is no page {min(wrong)}; `document` has {count}.")
        merged: list[range] = []
        for first, last in ranges:
            start = max(first, merged[-1].stop) if merged else first
            merged.append(range(start, max(start, last + 1)))
        total = sum(map(len, merged))
        if total == 0:
            raise InvalidTask(f"`pages` {self.pages!r} names no page.")
        if total > most:
            raise InvalidTask(
                f"`document`: {total:,} pages are to be read, the limit is {most:,}.",
                'Read some at a time with `pages` ("1-100"), or raise MAX_DOCUMENT_PAGES on the worker.',
            )
        return [page for one in merged for page in one]


def _range(part: str, count: int) -> tuple[int, int]:
    """The first and the last page of a part such as "7", "1-3" or "5-"."""
    first, dash, last = part.partition("-")
    if dash and not last:
        return int(first), max(int(first), count)
    return int(first), int(last or first)


class OcrPage(TypedDict):
    """What became of one page.

    Attributes:
        page: its number, from 1.
        source: what read it; where none could, none.
        confidence: 0 to 1; of OCR for what it says, 1 of a text layer, None of a model.
        characters: without spaces.
        width: of the page, in `unit`.
        height: of the page, in `unit`.
        unit: "pt" in a PDF, "px" in a picture.
        attempts: times it was tried.
        cached: whether it had been read before.
        warning: what did not go as it should.
        error: why it was not read.
    """

    page: int
    attempts: int
    cached: bool
    source: NotRequired[Literal["text", "ocr", "vlm"]]
    confidence: NotRequired[float | None]
    characters: NotRequired[int]
    width: NotRequired[float]
    height: NotRequired[float]
    unit: NotRequired[Literal["pt", "px"]]
    warning: NotRequired[str]
    error: NotRequired[str]


class BlobRef(TypedDict):
    """`sha256:…`; tasks take it wherever they take a text or a document."""

    blob: str


class OcrResult(TypedDict):
    """Result of `document.ocr`.

    Attributes:
        markdown: all pages; a long one is kept as a blob.
        pages: what became of each.
        pages_processed: how many were read.
        json: every page with its lines, blocks and boxes.
        meta: `model` is that of the OCR where no other was asked.
    """

    markdown: str | BlobRef
    pages: list[OcrPage]
    pages_processed: int
    json: BlobRef
    meta: Meta
