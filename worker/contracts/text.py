"""`text.summarize`, `text.keywords`, `text.normalize`."""

from typing import Annotated, ClassVar, TypedDict

from pydantic import Field

from worker.contracts.base import Contract, Language, Meta, Text, TextInput
from worker.contracts.llm import CleanJson, Sampling


class SummarizeArguments(Sampling):
    """`text.summarize`.

    Attributes:
        text: any length; a text longer than the model's context is split, summarised in parts and joined.
        max_length: most words in the summary.
        language: ISO 639 code of the summary; "auto" is the language of the text.
    """

    fed_by_chain: ClassVar[str | None] = "text"

    text: TextInput
    max_length: int = Field(default=200, ge=10, le=5000)
    language: Language = "auto"


class KeywordsArguments(Sampling):
    """`text.keywords`.

    Attributes:
        text: any length.
        max_keywords: most keywords in the answer.
        language: ISO 639 code of the keywords; "auto" is the language of the text.
    """

    fed_by_chain: ClassVar[str | None] = "text"

    text: TextInput
    max_keywords: int = Field(default=10, ge=1, le=100)
    language: Language = "auto"


class NormalizeExample(Contract):
    """One worked example of `text.normalize`."""

    request: Text
    normalized: CleanJson


class NormalizeArguments(Sampling):
    """`text.normalize`: a free request as clean JSON.

    Attributes:
        request: what somebody wrote.
        json_schema: JSON Schema of the answer; sent as `schema`.
        examples: at most 3 `{"request": …, "normalized": …}` pairs to learn from.
        language: ISO 639 code of the request; "auto" detects it.
        max_repairs: as in `llm.extract`.
    """

    fed_by_chain: ClassVar[str | None] = "request"

    request: Text
    json_schema: CleanJson = Field(alias="schema")
    examples: Annotated[list[NormalizeExample], Field(max_length=3)] = Field(default_factory=list)
    language: Language = "auto"
    max_repairs: int = Field(default=2, ge=0, le=10)


class Summary(TypedDict):
    """Result of `text.summarize`; lengths are words, `compression_ratio` is summary / original."""

    summary: str
    original_length: int
    summary_length: int
    compression_ratio: float
    meta: Meta


class Keywords(TypedDict):
    """Result of `text.keywords`."""

    keywords: list[str]
    count: int
    meta: Meta


class Normalized(TypedDict):
    """Result of `text.normalize`; `confidence` is 0 to 1."""

    normalized: dict[str, object]
    confidence: float
    meta: Meta
