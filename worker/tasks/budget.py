"""How many tokens fit where."""

from collections.abc import Sequence

from worker.backends.base import Json
from worker.errors import ContextLengthExceeded
from worker.tasks.base import Work

#: Tokens of context taken for granted where the server does not tell; hardly any model has less.
ASSUMED_CONTEXT = 2048

#: Tokens a chat template may add around the messages: roles, a default system prompt, the date.
TEMPLATE_TOKENS = 96

#: Tokens of a picture of 1,024 x 1,024 with patches of 28 pixels; most models take fewer.
PICTURE_TOKENS = 1400

#: Tokens of the markers around a text.
_MARKER_TOKENS = 16

_SMALLEST_ANSWER = 16
_SMALLEST_PIECE = 64


async def answer_room(work: Work, messages: Sequence[Json], wanted: int, context_length: int | None) -> int:
    """Tokens left for the answer: `wanted`, or less where prompt and answer would not fit.

    Raises:
        ContextLengthExceeded: nothing is left.
    """
    text = "\n".join(_text_of(message) for message in messages)
    context = context_length or ASSUMED_CONTEXT
    pictures = sum(map(_pictures_of, messages))
    overhead = TEMPLATE_TOKENS + 8 * len(messages) + PICTURE_TOKENS * pictures
    # No tokenizer makes more tokens than the text has bytes: most prompts need not be counted.
    if len(text.encode()) + overhead + wanted <= context:
        return wanted
    (prompt,) = await work.count_tokens([text])
    left = context - prompt - overhead
    if left >= _SMALLEST_ANSWER:
        return min(wanted, left)
    if context_length is None or pictures:
        return wanted  # only the server knows whether it fits
    raise ContextLengthExceeded(f"The prompt has about {prompt:,} tokens, the model's context {context:,}.")


def _text_of(message: Json) -> str:
    """The text of a message; of parts, each part's text."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _pictures_of(message: Json) -> int:
    content = message.get("content")
    return sum(part.get("type") == "image_url" for part in content) if isinstance(content, list) else 0


async def text_budget(work: Work, instructions: str, answer_tokens: int, context: int) -> int:
    """Tokens of text that fit beside the instructions and the answer.

    Raises:
        ContextLengthExceeded: too few to work on a text in pieces.
    """
    (prompt,) = await work.count_tokens([instructions])
    left = context - TEMPLATE_TOKENS - _MARKER_TOKENS - prompt - answer_tokens
    if left < _SMALLEST_PIECE:
        raise ContextLengthExceeded(
            f"The model's context of {context:,} tokens leaves no room for text beside the instructions "
            f"({prompt:,} tokens) and the answer ({answer_tokens:,})."
        )
    return left
