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
    pages: str | Annotated[list[int], Field(min_length=1, max_length=1000)] | None = None
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
        chosen: set[int] = set()
        if self.pages is None:
            chosen.update(range(1, count + 1))
        elif isinstance(self.pages, str):
            for part in self.pages.replace(" ", "").split(","):
                first, dash, last = part.partition("-")
                end = int(last) if last else (count if dash else int(first))
                if max(int(first), end) > count:
                    chosen.add(max(int(first), end))
                chosen.update(range(int(first), min(end, count) + 1))
        else:
            chosen.update(self.pages)
        if wrong := [page for page in sorted(chosen) if not 1 <= page <= count]:
            raise InvalidTask(f"`pages`: there is no page {wrong[0]}; `document` has {count}.")
        if not chosen:
            raise InvalidTask(f"`pages` {self.pages!r} names no page.")
        if len(chosen) > most:
            raise InvalidTask(
                f"`document`: {len(chosen):,} pages are to be read, the limit is {most:,}.",
                'Read some at a time with `pages` ("1-100"), or raise MAX_DOCUMENT_PAGES on the worker.',
            )
        return sorted(chosen)


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
