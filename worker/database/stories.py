"""Stories: conversations that go on, turn by turn.

A turn is there as a whole, what was said by both sides, or not at all: it is written in one transaction, at
its end. A worker killed in the middle leaves nothing but a place in the line (see `line`), and a task whose
turn is there already is told it again instead of taking another.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from worker.database.engine import Database
from worker.database.line import Key, Line, Place, end, enter, start, taken_over
from worker.database.tables import MESSAGE, STORY, TURN
from worker.errors import InputUnavailable, InvalidTask

Json = dict[str, Any]
T = TypeVar("T")

#: Waits before an ending is tried again to be written, seconds.
FINISH_WAITS_S = (0.2, 1.0, 2.0, 4.0, 8.0)


class Said(NamedTuple):
    """One message.

    Attributes:
        role: "user" or "assistant".
        content: the text.
        tokens: of the text, as the model server counts; 0 where that is not known.
        date: when.
        turn: which turn it belongs to; 0 for one that is not written yet.
        id: its number in the table; 0 likewise.
    """

    role: str
    content: str
    tokens: int = 0
    date: datetime | None = None
    turn: int = 0
    id: int = 0


@dataclass(frozen=True, slots=True)
class Story:
    """What is known of a story beside its messages.

    Attributes:
        key: which it is.
        name: for people; may be empty.
        system: the storyteller's instructions; "" for none.
        system_tokens: of these; 0 where that is not known.
        layout: how the model is shown it, "chat" or "plain"; "" before the first turn.
        kept_from: the first turn the model is still shown.
        turns: number of the last turn.
        created: when.
        updated: when the last turn ended, or it was changed.
    """

    key: Key
    name: str = ""
    system: str = ""
    system_tokens: int = 0
    layout: str = ""
    kept_from: int = 1
    turns: int = 0
    created: datetime | None = None
    updated: datetime | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """A turn that is there.

    Attributes:
        number: from 1.
        text: what was answered.
        meta: how the answer came to be.
    """

    number: int
    text: str
    meta: Json


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that has begun: nobody else writes to the story until it ends.

    Attributes:
        story: as it is.
        messages: those of the turns from `story.kept_from` on, in order.
        told: what the task was answered before; None: it is new.
        place: in the line.
    """

    story: Story
    messages: Sequence[Said] = ()
    told: Told | None = None
    place: Place | None = None

    @property
    def number(self) -> int:
        """Of this turn."""
        return self.told.number if self.told else self.story.turns + 1


@dataclass(frozen=True, slots=True)
class Ending:
    """What a turn adds to its story.

    Attributes:
        said: its messages, in order.
        meta: how the answer came to be.
        story: what of the story it changes, by the names of `Story`.
        counted: tokens of earlier messages that were not known, by the messages' ids.
    """

    said: Sequence[Said]
    meta: Json
    story: Mapping[str, Any] = field(default_factory=dict)
    counted: Mapping[int, int] = field(default_factory=dict)


class Stories:
    """All stories of a database; belongs to one event loop."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._line = Line(database)

    @asynccontextmanager
    async def turn(self, key: Key, task: str) -> AsyncIterator[Turn]:
        """Wait for the task's turn in a story, and have the story alone until the end of the block.

        Without `finish` nothing of the turn remains.

        Raises:
            InputUnavailable: the database does not work now.
        """
        place = Place(key, task)

        def come(connection: Connection) -> Turn | None:
            if (told := _told(connection, key, task)) is not None:
                return Turn(find(connection, key) or Story(key), told=told)
            return _begun(connection, place) if enter(connection, place) else None

        def ask_again(connection: Connection) -> Turn | None:
            return _begun(connection, place) if start(connection, place) else None

        async with self._line.kept(place):
            turn = await self.database.writing(come)
            while turn is None:
                await self._line.wait(place)
                turn = await self.database.writing(ask_again)
            place.left = turn.told is not None
            yield turn

    async def finish(self, turn: Turn, ending: Ending) -> None:
        """Write a turn; it has the story no longer. A database that is away for a while costs no answer.

        Raises:
            InputUnavailable: the database does not work now, or it was another's turn meanwhile.
        """
        place = turn.place
        if place is None:
            raise ValueError("the turn is there already")

        def write(connection: Connection) -> bool:
            if _told(connection, turn.story.key, place.task):
                return True  # the connection was lost in the moment it was written
            if not end(connection, place):
                return False
            make(connection, turn.story)
            add_turn(connection, turn.story.key, turn.number, ending.said, place.task, ending.meta)
            changes = {**ending.story, "turns": turn.number, "updated": datetime.now(UTC)}
            connection.execute(sa.update(STORY).where(*_story(turn.story.key)).values(changes))
            for message, tokens in ending.counted.items():
                connection.execute(sa.update(MESSAGE).where(MESSAGE.c.id == message).values(tokens=tokens))
            return True

        if not await self._persist(write):
            raise taken_over(place)
        place.left = True

    async def _persist(self, write: Callable[[Connection], T]) -> T:
        for wait_s in FINISH_WAITS_S:
            try:
                return await self.database.writing(write)
            except InputUnavailable as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(wait_s)
        return await self.database.writing(write)

    @asynccontextmanager
    async def alone(self, key: Key) -> AsyncIterator[None]:
        """Have a story alone, between two turns: for what is done to it as a whole."""
        async with self.turn(key, f"alone-{uuid4()}"):
            yield


def find(connection: Connection, key: Key) -> Story | None:
    """A story; None where there is none."""
    row = connection.execute(sa.select(STORY).where(*_story(key))).one_or_none()
    return None if row is None else _read(row)


def listed(connection: Connection, owner: str, limit: int = 1000) -> list[Story]:
    """An owner's stories, the last one changed first."""
    query = sa.select(STORY).where(STORY.c.owner == owner).order_by(STORY.c.updated.desc(), STORY.c.session)
    return [_read(row) for row in connection.execute(query.limit(limit))]


def messages(connection: Connection, key: Key, first_turn: int = 1) -> list[Said]:
    """What was said, from a turn on, in order."""
    query = (
        sa.select(MESSAGE)
        .where(MESSAGE.c.owner == key.owner, MESSAGE.c.session == key.session, MESSAGE.c.turn >= first_turn)
        .order_by(MESSAGE.c.turn, MESSAGE.c.position)
    )
    return [
        Said(row.role, row.content, row.tokens, row.date, row.turn, row.id)
        for row in connection.execute(query)
    ]


def make(connection: Connection, story: Story) -> None:
    """Write a story without turns where there is none of its key."""
    if find(connection, story.key) is not None:
        return
    now = datetime.now(UTC)
    row = {
        **story.key._asdict(),
        "name": story.name,
        "system": story.system,
        "system_tokens": story.system_tokens,
        "layout": story.layout,
        "kept_from": story.kept_from,
        "turns": story.turns,
        "created": story.created or now,
        "updated": story.updated or now,
    }
    connection.execute(sa.insert(STORY).values(row))


def add_turn(
    connection: Connection, key: Key, number: int, said: Sequence[Said], task: str | None, meta: Json
) -> None:
    """Write a turn and its messages; the story is there."""
    connection.execute(sa.insert(TURN).values(**key._asdict(), number=number, task=task, meta=meta))
    now = datetime.now(UTC)
    rows = [
        {
            **key._asdict(),
            "turn": number,
            "position": position,
            "role": one.role,
            "content": one.content,
            "tokens": one.tokens,
            "date": one.date or now,
        }
        for position, one in enumerate(said)
    ]
    if rows:
        connection.execute(sa.insert(MESSAGE), rows)


def change(connection: Connection, key: Key, **changes: Any) -> None:
    """Change what is known of a story beside its messages.

    Raises:
        InvalidTask: there is no such story.
    """
    changes["updated"] = datetime.now(UTC)
    if not connection.execute(sa.update(STORY).where(*_story(key)).values(changes)).rowcount:
        raise InvalidTask(f"There is no story {key.session!r}.", "See them with `kc-worker story list`.")


def clear(connection: Connection, key: Key) -> None:
    """Remove all turns of a story; its name and instructions stay. Errors as for `change`."""
    change(connection, key, turns=0, kept_from=1, layout="")
    connection.execute(sa.delete(TURN).where(TURN.c.owner == key.owner, TURN.c.session == key.session))


def delete(connection: Connection, key: Key) -> None:
    """Remove a story. Errors as for `change`."""
    change(connection, key)
    connection.execute(sa.delete(STORY).where(*_story(key)))


def _begun(connection: Connection, place: Place) -> Turn:
    story = find(connection, place.story)
    if story is None:
        return Turn(Story(place.story), place=place)
    return Turn(story, messages(connection, place.story, story.kept_from), place=place)


def _told(connection: Connection, key: Key, task: str) -> Told | None:
    """The turn a task has taken before; None where it has not."""
    of_task = (TURN.c.owner == key.owner, TURN.c.session == key.session, TURN.c.task == task)
    found = connection.execute(sa.select(TURN).where(*of_task)).one_or_none()
    if found is None:
        return None
    answer = sa.select(MESSAGE.c.content).where(
        MESSAGE.c.owner == key.owner,
        MESSAGE.c.session == key.session,
        MESSAGE.c.turn == found.number,
        MESSAGE.c.role == "assistant",
    )
    text = connection.execute(answer.order_by(MESSAGE.c.position.desc()).limit(1)).scalar_one_or_none()
    return Told(found.number, text or "", found.meta)


def _read(row: sa.Row[Any]) -> Story:
    values = dict(row._mapping)  # noqa: SLF001 - the public name of a row's columns
    return Story(Key(values.pop("owner"), values.pop("session")), **values)


def _story(key: Key) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return STORY.c.owner == key.owner, STORY.c.session == key.session
