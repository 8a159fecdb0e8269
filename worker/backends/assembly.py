"""A streamed answer put together again: many `chat.completion.chunk` → the one `chat.completion`."""

from collections.abc import Iterator
from typing import Any

from worker.backends.base import Chunk, Json


class Assembly:
    """Collects chunks; `body` is what the server would have answered without streaming."""

    def __init__(self) -> None:
        self._top: Json = {}
        self._choices: dict[int, Json] = {}
        self._texts: dict[tuple[int, str], list[str]] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing has arrived yet."""
        return not self._top and not self._choices

    @property
    def finished(self) -> bool:
        """Whether every choice seen said why it ended."""
        return bool(self._choices) and all(choice["finish_reason"] for choice in self._choices.values())

    def add(self, event: Json) -> Iterator[Chunk]:
        """Take one event in and yield the new text in it."""
        self._top.update(
            {key: value for key, value in event.items() if key != "choices" and value is not None}
        )
        for part in event.get("choices") or []:
            index = part.get("index", 0)
            choice = self._choices.setdefault(
                index,
                {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None},
            )
            if part.get("finish_reason"):
                choice["finish_reason"] = part["finish_reason"]
            if part.get("logprobs"):
                _extend(choice.setdefault("logprobs", {}), part["logprobs"])
            if text := self._merge(index, choice["message"], part.get("delta") or {}):
                yield Chunk(text, index)

    def body(self) -> Json:
        """The whole answer so far."""
        for (index, field), parts in self._texts.items():
            self._choices[index]["message"][field] = "".join(parts)
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {**self._top, "object": "chat.completion", "choices": choices}

    def _merge(self, index: int, message: Json, delta: Json) -> str:
        """Put a delta into its message and return the piece of content in it."""
        for field, value in delta.items():
            if value is None:
                continue
            if field == "role":
                message["role"] = value
            elif field == "tool_calls":
                _merge_tool_calls(message.setdefault("tool_calls", []), value)
            elif isinstance(value, str):  # content, reasoning_content, refusal
                self._texts.setdefault((index, field), []).append(value)
            else:
                message[field] = value
        content = delta.get("content")
        return content if isinstance(content, str) else ""


def _merge_tool_calls(calls: list[Json], parts: list[Json]) -> None:
    """Ids and names come whole and once, arguments in pieces; `index` says which call a piece belongs to."""
    for part in parts:
        position = part.get("index", max(len(calls) - 1, 0))
        while len(calls) <= position:
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call = calls[position]
        call["id"] = part.get("id") or call["id"]
        call["type"] = part.get("type") or call["type"]
        function = part.get("function") or {}
        call["function"]["name"] = function.get("name") or call["function"]["name"]
        call["function"]["arguments"] += function.get("arguments") or ""


def _extend(target: Json, part: dict[str, Any]) -> None:
    """Log probabilities are lists by kind (`content`, `refusal`), a piece a chunk."""
    for key, value in part.items():
        if isinstance(value, list):
            target.setdefault(key, []).extend(value)
        elif key not in target:
            target[key] = value
