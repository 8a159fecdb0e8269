"""What the scripted server is asked: words, and pictures, which it opens."""

import base64
import io
import re
from collections.abc import Sequence

from PIL import Image

from worker.backends.base import Json

#: Tokens of one picture.
PICTURE_TOKENS = 64
_TOKENS = re.compile(r"\s*(?:\w+|[^\w\s])")


def tokens_of(text: str) -> list[str]:
    """A text in tokens: words and marks, each with the space before it."""
    return _TOKENS.findall(text)


def tokens_asked(body: Json) -> int:
    """Tokens of the messages of a request."""
    messages = body.get("messages") or []
    pictures = sum(len(_pictures_of(message)) for message in messages)
    return len(tokens_of("\n".join(map(text_of, messages)))) + PICTURE_TOKENS * pictures


def text_of(message: Json) -> str:
    """What a message says; of several parts, their texts."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return str(content or "")


def open_pictures(messages: Sequence[Json]) -> int:
    """Read the pictures of messages to their ends; how many there are.

    Raises:
        OSError, ValueError: one is none, or not in base64.
    """
    urls = [url for message in messages for url in _pictures_of(message)]
    for url in urls:
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2], validate=True))) as picture:
            picture.load()
    return len(urls)


def _pictures_of(message: Json) -> list[str]:
    """URLs of the pictures in a message."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return [part["image_url"]["url"] for part in parts if part.get("type") == "image_url"]
