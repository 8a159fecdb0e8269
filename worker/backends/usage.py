"""Token counts for an answer whose server sent none: one that was cut, or llama-cpp-python's streams."""

import logging

from worker.backends.base import Capabilities, Json
from worker.backends.kinds import PROBE_TIMEOUT_S, Kind
from worker.backends.openai_compatible import Answer, OpenAIClient
from worker.errors import TaskError

logger = logging.getLogger(__name__)

#: What a chat template adds to a message, and to open the answer, tokens.
_MARKER_TOKENS = 4


async def with_usage(
    kind: Kind, client: OpenAIClient, capabilities: Capabilities, request: Json, answer: Answer
) -> Answer:
    """The answer, its `usage` counted with the server's tokenizer where it has none.

    The tokens of the answer are exact but for how its end splits; those of the prompt are its text's and
    about four a message. A server without a tokenizer leaves the answer without `usage`.

    Args:
        kind: of the server.
        client: speaks to the server that answered; its slot is still held.
        capabilities: of the server.
        request: the chat request.
        answer: to it; changed in place.
    """
    if answer.body.get("usage") or not capabilities.tokenizer:
        return answer
    messages = request.get("messages", ())
    prompt = "\n".join((request.get("prompt", ""), *map(_text_of, messages))).removeprefix("\n")
    written = "".join(_text_of(choice["message"]) for choice in answer.body["choices"])
    try:
        counts = await kind.count_tokens(client, capabilities, [prompt, written], PROBE_TIMEOUT_S)
    except TaskError as error:
        logger.info("The tokens of an answer are not known: %s", error)
        return answer
    prompt_tokens = counts[0] + (_MARKER_TOKENS * (len(messages) + 1) if messages else 0)
    answer.body["usage"] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": counts[1],
        "total_tokens": prompt_tokens + counts[1],
    }
    return answer


def _text_of(message: Json) -> str:
    """All text of a message: content, reasoning, and what its tools are called with."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    calls = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    called = [call.get(key) for call in calls for key in ("name", "arguments")]
    return "".join(str(text) for text in (message.get("reasoning_content"), *texts, *called) if text)
