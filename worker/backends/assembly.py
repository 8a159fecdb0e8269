"""A streamed answer put together again: many `chat.completion.chunk` → the one `chat.completion`."""

from typing import Any

from worker.backends.base import Chunk, Json
from worker.backends.runaway import REPETITION, GrowingText

#: What comes in pieces, of a choice.
_GROWING = frozenset({"delta", "logprobs"})
#: What of a delta is the text itself, or the same in every piece.
_SAID_OTHERWISE = frozenset({"content", "role"})


class Assembly:
    """Collects chunks; `body` is what the server would have answered without streaming.

    A choice that runs away ends there: its `finish_reason` is "repetition", and the rest of it is not taken.
    """

    def __init__(self) -> None:
        self._top: Json = {}
        self._choices: dict[int, Json] = {}
        #: By choice, and by field of its message or number of its tool call.
        self._texts: dict[tuple[int, str | int], GrowingText] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing has arrived yet."""
        return not self._top and not self._choices

    @property
    def finished(self) -> bool:
        """Whether every choice seen said why it ended."""
        return bool(self._choices) and all(choice["finish_reason"] for choice in self._choices.values())

    @property
    def ran_away(self) -> bool:
        """Whether all that is still to come is a repetition without end."""
        endings = [choice["finish_reason"] for choice in self._choices.values()]
        return REPETITION in endings and all(endings)

    def add(self, event: Json) -> list[Chunk]:
        """Take one event in; returns what is new in it."""
        for key, value in event.items():
            if value is not None and key != "choices":
                self._top[key] = value
        return [chunk for part in event.get("choices") or () if (chunk := self._take(part)) is not None]

    def body(self) -> Json:
        """The whole answer so far."""
        for (index, field), text in self._texts.items():
            message = self._choices[index]["message"]
            if isinstance(field, int):
                message["tool_calls"][field]["function"]["arguments"] = text.whole()
            else:
                message[field] = text.whole()
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {**self._top, "object": "chat.completion", "choices": choices}

    def _take(self, part: Json) -> Chunk | None:
        """One choice's share of an event."""
        index = part.get("index", 0)
        if (choice := self._choices.get(index)) is None:
            message = {"role": "assistant", "content": None}
            choice = self._choices[index] = {"index": index, "message": message, "finish_reason": None}
        elif choice["finish_reason"] == REPETITION:
            return None
        delta = part.get("delta") or {}
        self._merge(index, choice, delta)
        if part.get("finish_reason"):  # with what else the server says of its end, such as `stop_reason`
            choice |= {key: part[key] for key in part.keys() - _GROWING if part[key] is not None}
        if part.get("logprobs"):
            _extend(choice.setdefault("logprobs", {}), part["logprobs"])
        return chunk_of(index, delta)

    def _merge(self, index: int, choice: Json, delta: Json) -> None:
        """Put a delta into its choice's message."""
        message = choice["message"]
        for field, value in delta.items():
            if value is None:
                continue
            if field == "role":
                message["role"] = value
            elif field == "tool_calls":
                self._merge_tool_calls(index, message.setdefault("tool_calls", []), value)
            elif isinstance(value, str):  # content, reasoning_content, refusal
                self._write(index, field, value)
            else:
                message[field] = value

    def _merge_tool_calls(self, index: int, calls: list[Json], parts: list[Json]) -> None:
        """Ids and names come whole and once, arguments in pieces; `index` says which call they belong to."""
        for part in parts:
            position = part.get("index", max(len(calls) - 1, 0))
            while len(calls) <= position:
                calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
            call = calls[position]
            call["id"] = part.get("id") or call["id"]
            call["type"] = part.get("type") or call["type"]
            function = part.get("function") or {}
            call["function"]["name"] = function.get("name") or call["function"]["name"]
            if function.get("arguments"):
                self._write(index, position, function["arguments"])

    def _write(self, index: int, field: str | int, piece: str) -> None:
        if (text := self._texts.get((index, field))) is None:
            text = self._texts[index, field] = GrowingText()
        text.add(piece)
        if text.ran_away:
            self._choices[index]["finish_reason"] = REPETITION


def pieces_of(body: Json) -> list[Chunk]:
    """A whole answer in pieces, one a choice."""
    found = []
    for choice in body["choices"]:
        message = choice["message"]
        if calls := message.get("tool_calls"):
            message = {**message, "tool_calls": [{"index": n, **call} for n, call in enumerate(calls)]}
        found.append(chunk_of(choice.get("index", 0), message))
    return [chunk for chunk in found if chunk is not None]


def chunk_of(index: int, delta: Json) -> Chunk | None:
    """What is new in a delta of a choice; None where nothing is."""
    content = delta.get("content")
    text = content if isinstance(content, str) else ""
    more = {field: value for field, value in delta.items() if value and field not in _SAID_OTHERWISE}
    return Chunk(text, index, more) if text or more else None


def _extend(target: Json, part: dict[str, Any]) -> None:
    """Log probabilities are lists by kind (`content`, `refusal`), a piece a chunk."""
    for key, value in part.items():
        if isinstance(value, list):
            target.setdefault(key, []).extend(value)
        elif key not in target:
            target[key] = value
