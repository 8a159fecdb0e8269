"""`story.continue`: a conversation that is remembered."""

from typing import Annotated, ClassVar, Literal, TypedDict

from pydantic import Field, field_validator

from worker.contracts.base import Meta, Options, Text
from worker.contracts.llm import Sampling

SessionId = Annotated[Text, Field(min_length=1, max_length=200)]


class StoryArguments(Sampling):
    """`story.continue`.

    Attributes:
        session_id: which story; made at its first turn. Each tenant has stories of his own.
        prompt: what the user says.
        system: the storyteller's instructions; kept with the story until others are given. None: those kept.
        template: "chat" sends a conversation to /v1/chat/completions, "plain" its text to /v1/completions,
            for base models; "auto" does as before, at first as the server can. Kept likewise.
        max_tokens: most tokens of the answer; fewer where the context is shorter.
    """

    fed_by_chain: ClassVar[str | None] = "prompt"

    session_id: SessionId
    prompt: Annotated[Text, Field(min_length=1)]
    system: Text | None = None
    template: Literal["auto", "chat", "plain"] = "auto"
    max_tokens: int = Field(default=512, ge=16, le=4096)

    @field_validator("options")
    @classmethod
    def _never_the_same(cls, options: Options) -> Options:
        if options.cache:
            raise ValueError("a story has no use for `cache`: no two turns are the same. Leave it out")
        return options


class StoryTurn(TypedDict):
    """Result of `story.continue`; `turn` counts from 1."""

    text: str
    session_id: str
    turn: int
    meta: Meta
