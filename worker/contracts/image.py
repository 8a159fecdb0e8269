"""`image.analyze`."""

from typing import TypedDict

from pydantic import Field

from worker.contracts.base import Input, Language, Meta, Text
from worker.contracts.llm import Sampling

#: Categories of tags, in the order of an answer.
CATEGORIES = ("characters", "objects", "colours", "mood", "emotions", "style", "function")
#: Of one category.
MOST_TAGS = 3


class AnalyzeArguments(Sampling):
    """`image.analyze`: what is on a poster.

    Attributes:
        image: PNG, JPEG, WebP, GIF, BMP or TIFF.
        title, description, year: what is known of it already; the model is told.
        language: ISO 639 code of the answer.
        max_repairs: as in `llm.extract`.
    """

    image: Input
    title: Text | None = Field(default=None, max_length=1000)
    description: Text | None = Field(default=None, max_length=10_000)
    year: int | Text | None = None
    language: Language = "pl"
    max_repairs: int = Field(default=2, ge=0, le=10)


class Analyzed(TypedDict):
    """Result of `image.analyze`.

    Attributes:
        simple_description: a few sentences for somebody who cannot see it.
        research_description: for a catalogue: composition, technique, style, meaning.
        tags: category → up to 3 tags, the most important first; every category is there.
    """

    simple_description: str
    research_description: str
    tags: dict[str, list[str]]
    meta: Meta
