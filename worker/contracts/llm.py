"""`llm.chat`, `llm.embed`, `llm.extract`: the model, with as little as possible in between."""

from typing import Annotated, Any, ClassVar, TypedDict

from pydantic import BeforeValidator, Field, model_validator

from worker.contracts.base import Contract, Json, Meta, Role, TaskArguments, Text, TextInput, clean_text


def clean_json(value: object) -> object:
    """`clean_text` for every string inside a JSON document.

    Raises:
        ValueError: as `clean_text`.
    """
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += [*item, *item.values()]
        elif isinstance(item, list):
            pending += item
        else:
            clean_text(item)
    return value


CleanJson = Annotated[Json, BeforeValidator(clean_json)]


class Message(Contract):
    """One chat message, as in OpenAI's API."""

    role: Role
    content: Text | list[CleanJson] | None = None
    name: Text | None = None
    tool_calls: list[CleanJson] | None = None
    tool_call_id: Text | None = None
    reasoning_content: Text | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Message":
        if self.content is None and not self.tool_calls:
            raise ValueError("a message needs `content` or `tool_calls`")
        return self


Messages = Annotated[list[Message], Field(min_length=1)]


class Sampling(TaskArguments):
    """The OpenAI sampling fields, and those llama.cpp and vLLM both add."""

    model: Text | None = Field(default=None, min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=5, strict=False)
    top_p: float | None = Field(default=None, gt=0, le=1, strict=False)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1, strict=False)
    seed: int | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, strict=False)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, strict=False)

    def sampling(self) -> Json:
        """The sampling fields that were set, as the model server wants them."""
        return self.model_dump(include=set(Sampling.model_fields) - {"options"}, exclude_none=True)


class ChatArguments(Sampling):
    """`llm.chat`: OpenAI's chat-completions request.

    `extra_body` is merged into the request for what a server adds of its own. In a chain without `messages`,
    the previous task's text becomes one user message.
    """

    fed_by_chain: ClassVar[str | None] = "messages"

    messages: Messages
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1, le=128)
    stop: Text | list[Text] | None = None
    response_format: CleanJson | None = None
    tools: list[CleanJson] | None = None
    tool_choice: str | CleanJson | None = None
    parallel_tool_calls: bool | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    user: Text | None = None
    metadata: CleanJson | None = None
    reasoning_effort: str | None = None
    extra_body: CleanJson | None = None

    def request(self) -> Json:
        """The body for /v1/chat/completions."""
        body: Json = self.model_dump(exclude={"options", "extra_body"}, exclude_none=True)
        return body | (self.extra_body or {})


class EmbedArguments(TaskArguments):
    """`llm.embed`: OpenAI's embeddings request."""

    fed_by_chain: ClassVar[str | None] = "input"

    input: Text | Annotated[list[Text], Field(min_length=1)]
    model: Text | None = Field(default=None, min_length=1)
    dimensions: int | None = Field(default=None, ge=1)


class ExtractArguments(Sampling):
    """`llm.extract`: JSON that satisfies `schema`, from a text or a conversation.

    Attributes:
        text: what to extract from; a text longer than the context is refused.
        messages: a conversation instead of a text.
        json_schema: JSON Schema (draft 2020-12 unless `$schema` says otherwise); sent as `schema`.
        max_repairs: times the model is shown the validator's reason and asked again.
    """

    fed_by_chain: ClassVar[str | None] = "text"

    text: TextInput | None = None
    messages: Messages | None = None
    json_schema: CleanJson = Field(alias="schema")
    max_repairs: int = Field(default=2, ge=0, le=10)

    @model_validator(mode="after")
    def _one_source(self) -> "ExtractArguments":
        if (self.text is None) == (self.messages is None):
            raise ValueError("give exactly one of `text` and `messages`")
        return self


class Extracted(TypedDict):
    """Result of `llm.extract`: `data` satisfies the schema; `attempts` answers were asked for."""

    data: Any
    attempts: int
    meta: Meta


def plain(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages as JSON for the model server."""
    return [message.model_dump(exclude_none=True) for message in messages]
