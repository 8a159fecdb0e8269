"""Stories as files: JSON with everything, Markdown to read, and what other programs wrote of their chats."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Connection

from worker.contracts.base import clean_text
from worker.database.line import Key
from worker.database.stories import Said, Story, add_turn, change, clear, find, make, messages
from worker.errors import InvalidTask

Json = dict[str, Any]

#: Who is meant, in the words of other programs.
_ROLES = {
    "user": "user", "human": "user", "you": "user", "prompter": "user",
    "assistant": "assistant", "ai": "assistant", "bot": "assistant", "model": "assistant", "gpt": "assistant",
    "system": "system", "developer": "system",
}  # fmt: skip
#: Unix times beyond this are milliseconds (it is the year 5138 in seconds).
_MOST_S = 1e11


@dataclass(frozen=True, slots=True)
class History:
    """A story read from a file.

    Attributes:
        session: as the file names it; "" where it does not.
        name: for people.
        system: the storyteller's instructions.
        turns: what was said; each begins with what the user said, but for a first one he had no part in.
    """

    session: str
    name: str
    system: str
    turns: Sequence[Sequence[Said]]


def document(story: Story, said: Sequence[Said]) -> Json:
    """A story as JSON; `parse` reads it."""
    return {
        "session_id": story.key.session,
        "name": story.name,
        "system": story.system,
        "created": _iso(story.created),
        "updated": _iso(story.updated),
        "messages": [
            {"id": one.id, "turn": one.turn, "role": one.role, "content": one.content, "tokens": one.tokens,
             "date": _iso(one.date)}
            for one in said
        ],
    }  # fmt: skip


def markdown(story: Story, said: Sequence[Said]) -> str:
    """A story to read."""
    parts = [f"# {story.name or story.key.session}"]
    parts += ["\n".join(f"> {line}".rstrip() for line in story.system.splitlines())] if story.system else []
    for one in said:
        date = f", {one.date:%Y-%m-%d %H:%M}" if one.date else ""
        parts += [f"**{one.role.capitalize()}**{date}", one.content]
    return "\n\n".join(parts) + "\n"


def parse(raw: bytes) -> History:
    """A story from JSON: ours, a list of `{role, content, date?, …}`, or an object with such `messages`.

    Messages of the system at the beginning become the instructions.

    Raises:
        InvalidTask: naming the entry that is wrong.
    """
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidTask(f"It is not JSON: {error}.") from None
    top: Mapping[str, Any] = found if isinstance(found, dict) else {}
    entries = top.get("messages") if isinstance(found, dict) else found
    if not isinstance(entries, list):
        raise InvalidTask('It is neither a list of messages nor an object with "messages".')
    system = [top["system"]] if isinstance(top.get("system"), str) and top["system"] else []
    turns: list[list[Said]] = []
    for number, entry in enumerate(entries, 1):
        one = _said(number, entry)
        if one.role == "system":
            if turns:
                raise InvalidTask(f"Entry {number}: `role` is {one.role!r}, after others have spoken.")
            system.append(one.content)
        elif one.role == "user" or not turns:
            turns.append([one])
        else:
            turns[-1].append(one)
    return History(str(top.get("session_id") or ""), str(top.get("name") or ""), "\n\n".join(system), turns)


def write(connection: Connection, key: Key, history: History, *, replace: bool) -> None:
    """Make a story of a history; nobody else may write to it meanwhile.

    Raises:
        InvalidTask: the story has turns already, and may not be replaced.
    """
    story = find(connection, key)
    if story is not None and story.turns:
        if not replace:
            raise InvalidTask(
                f"Story {key.session!r} has {story.turns:,} turns already.", "Clear it, or use --replace."
            )
        clear(connection, key)
    make(connection, Story(key))
    for number, said in enumerate(history.turns, 1):
        add_turn(connection, key, number, said, None, {})
    named = {"name": history.name} if history.name else {}
    change(connection, key, turns=len(history.turns), system=history.system, system_tokens=0, **named)


def read(connection: Connection, key: Key) -> tuple[Story, list[Said]]:
    """A story and all that was said in it.

    Raises:
        InvalidTask: there is no such story.
    """
    if (story := find(connection, key)) is None:
        raise InvalidTask(f"There is no story {key.session!r}.", "See them with `kc-worker story list`.")
    return story, messages(connection, key)


def _said(number: int, entry: object) -> Said:
    if not isinstance(entry, dict):
        raise InvalidTask(f"Entry {number} is not an object but {type(entry).__name__}.")
    role = _ROLES.get(str(entry.get("role", "")).lower())
    if role is None:
        raise InvalidTask(f"Entry {number}: `role` is {entry.get('role')!r}, not user, assistant or system.")
    content = entry.get("content")
    if isinstance(content, list):  # OpenAI's parts
        content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise InvalidTask(f"Entry {number}: `content` is {type(content).__name__}, not text.")
    try:
        clean_text(content)
    except ValueError as error:
        raise InvalidTask(f"Entry {number}: `content` {error}.") from None
    return Said(role, content, 0, _date(number, entry.get("date")))


def _date(number: int, given: object) -> datetime | None:
    """ISO 8601, or Unix time in seconds or milliseconds; None where nothing is said."""
    if given is None or given == "":
        return None
    try:
        if isinstance(given, int | float) and not isinstance(given, bool):
            return datetime.fromtimestamp(given / (1000 if abs(given) > _MOST_S else 1), UTC)
        date = datetime.fromisoformat(str(given))
    except (ValueError, OverflowError, OSError):
        raise InvalidTask(f"Entry {number}: `date` is {given!r}, neither ISO 8601 nor a Unix time.") from None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def _iso(date: datetime | None) -> str | None:
    return None if date is None else date.isoformat()
