"""A story as a model is shown it. What was said once is always written the same: servers keep prefixes."""

from collections.abc import Sequence
from itertools import groupby

from worker.backends.base import Json
from worker.database.stories import Said

#: Said for a user who says nothing before the story begins: templates want him to speak first.
_SILENCE = "…"


def as_chat(system: str, said: Sequence[Said]) -> list[Json]:
    """A conversation, user and assistant in turn as chat templates demand it."""
    messages = [{"role": "system", "content": system}] if system else []
    if said and said[0].role == "assistant":
        messages.append({"role": "user", "content": _SILENCE})
    for role, group in groupby(said, key=lambda one: one.role):
        messages.append({"role": role, "content": "\n\n".join(one.content for one in group)})
    return messages


def as_text(system: str, said: Sequence[Said]) -> str:
    """Running text, for a model that knows no roles: it goes on where the last prompt ends.

    An answer follows its prompt as the model wrote it, a new prompt after a blank line.
    """
    text = f"{system}\n\n" if system else ""
    previous = ""
    for one in said:
        goes_on = previous == "user" and one.role == "assistant" and one.content[:1].isspace()
        text += one.content if goes_on or not previous else f"\n\n{one.content}"
        previous = one.role
    return text
