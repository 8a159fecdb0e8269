"""`diagram.describe`."""

from typing import Any, Literal, TypedDict

from pydantic import Field

from worker.contracts.base import Input, Language, Meta, Text
from worker.contracts.llm import Sampling

#: What steps are written as.
DiagramFormat = Literal["mermaid", "plantuml", "bpmn", "json"]


class DiagramArguments(Sampling):
    """`diagram.describe`: the steps of a process, from a diagram of it.

    Attributes:
        image: a picture (PNG, JPEG, WebP, SVG …), a PDF, or a text diagram (Mermaid, PlantUML, BPMN, draw.io,
            JSON).
        file_name: tells which text diagram it is where the content does not, and is in the answer; where none
            is given, that of the path or URL.
        page: of a PDF or a draw.io file.
        adapter: LoRA adapter of the model server the picture is looked at with.
        language: ISO 639 code of the answer; "auto" is the language of the diagram.
        formats: what the steps are wanted as.
        max_repairs: as in `llm.extract`.
    """

    image: Input
    file_name: Text = Field(default="", max_length=1000)
    page: int = Field(default=1, ge=1, le=100_000)
    adapter: Text | None = Field(default=None, min_length=1, max_length=255)
    language: Language = "auto"
    formats: list[DiagramFormat] = Field(default_factory=list, max_length=4)
    max_repairs: int = Field(default=2, ge=0, le=10)


class DiagramMetadata(TypedDict):
    """How an answer came to be.

    Attributes:
        file_name: as it was sent.
        file_type: as its content has it: png, jpeg, svg, pdf, mermaid, bpmn …
        file_size_kb: 1,024 bytes each.
        file_hash: sha256 of its bytes, hexadecimal.
        processing_time: seconds.
        timestamp: when it was done, ISO 8601, UTC.
        model: that looked at it; "" where it was read as text.
        device: where the model works, which its server does not tell: null.
        adapter: LoRA adapter; null for none.
        prompt_version: changes with the prompt and the shape of its answer; "" where none was used.
        cached: whether it was known already.
    """

    file_name: str
    file_type: str
    file_size_kb: float
    file_hash: str
    processing_time: float
    timestamp: str
    model: str
    device: str | None
    adapter: str | None
    prompt_version: str
    cached: bool


class Described(TypedDict):
    """Result of `diagram.describe`.

    Attributes:
        description: Markdown table: number, action, role.
        steps: `[{number, action, role, kind: start|task|decision|end, next: [{to, condition}]}]`.
        diagrams: format → text, for the formats that were asked for.
    """

    description: str
    steps: list[dict[str, Any]]
    diagrams: dict[str, str]
    metadata: DiagramMetadata
    meta: Meta
