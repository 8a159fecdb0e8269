"""Who works on a story: one at a time, in the order they came, across workers and machines.

Whoever wants a turn has a row in `waiting`, kept alive by a lease. The first whose lease lives may start once
nobody else's turn runs. A worker that is killed stops renewing: after `LEASE_S` the next one goes on. The
same task delivered again takes its row over at once and keeps its place; what the earlier run still writes
is refused. Nobody holds a connection while he waits: a process looks once for all who wait in it.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from worker.database.dialects import lock, now_s
from worker.database.engine import Database
from worker.database.tables import WAITING
from worker.errors import InputUnavailable

logger = logging.getLogger(__name__)

#: Seconds after which a run that fell silent counts as dead, and after which it says that it lives.
LEASE_S, RENEW_S = 30.0, 10.0
#: Seconds before a database that did not answer is asked again.
AGAIN_S = 1.0
#: Seconds between two looks whether it is the turn of somebody who waits here; the end of a turn in the same
#: process is seen at once.
LOOK_S = 0.25
#: Seconds the place of a dead run is kept for the same task delivered again.
FORGET_S = 86400.0


class Key(NamedTuple):
    """Which story.

    Attributes:
        owner: the tenant; "" for nobody's.
        session: the producer's name for it.
    """

    owner: str
    session: str


@dataclass(eq=False, slots=True)
class Place:
    """One run of one task in the line of a story.

    Attributes:
        story: which.
        task: the task's id; the same task has one place, however often it is delivered.
        holder: of this run alone.
        left: whether its row is gone.
        start: done once it is worth asking again whether it may start.
    """

    story: Key
    task: str
    holder: str = field(default_factory=lambda: uuid.uuid4().hex)
    left: bool = False
    start: "asyncio.Future[None] | None" = None


class Line:
    """The lines of all stories, as one process sees them; belongs to one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places: set[Place] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._nudge = asyncio.Event()

    @asynccontextmanager
    async def kept(self, place: Place) -> AsyncIterator[None]:
        """Keep a place alive, and leave it at the end."""
        self._places.add(place)
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep())
            self._keeper.add_done_callback(self._kept)
        try:
            yield
        finally:
            self._places.discard(place)
            try:
                if not place.left:
                    await self._database.writing(lambda connection: leave(connection, place))
            except InputUnavailable as error:
                logger.warning("A turn of a story is given up only when its lease ends: %s", error)
            finally:
                self._nudge.set()

    async def wait(self, place: Place) -> None:
        """Return when it may be this place's turn.

        Raises:
            InputUnavailable: the database cannot be asked.
        """
        place.start = asyncio.get_running_loop().create_future()
        self._nudge.set()
        try:
            await place.start
        finally:
            place.start = None

    async def _keep(self) -> None:
        renew_at = time.monotonic() + RENEW_S
        while self._places:
            self._nudge.clear()
            waiting = [place for place in self._places if place.start is not None]
            try:
                if time.monotonic() >= renew_at:
                    holders = [place.holder for place in self._places]
                    await self._database.writing(lambda connection: _renew(connection, holders))  # noqa: B023
                    renew_at = time.monotonic() + RENEW_S
                if waiting:
                    stories = {place.story for place in waiting}
                    first = await self._database.reading(lambda connection: _first(connection, stories))  # noqa: B023
                    for place in waiting:
                        if first.get(place.story) in {place.holder, None}:
                            _wake(place)
            except InputUnavailable as error:
                logger.warning("Nobody's turn can be found out: %s", error)
                renew_at = max(renew_at, time.monotonic() + AGAIN_S)
                for place in waiting:
                    _wake(place, error)
            left_s = renew_at - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(LOOK_S, left_s) if waiting else left_s)):
                    await self._nudge.wait()

    def _kept(self, keeper: "asyncio.Task[None]") -> None:
        """Nobody waits for a keeper that broke."""
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            for place in self._places:
                _wake(place, error)


def _wake(place: Place, error: BaseException | None = None) -> None:
    if place.start is not None and not place.start.done():
        if error is None:
            place.start.set_result(None)
        else:
            place.start.set_exception(error)


def enter(connection: Connection, place: Place) -> bool:
    """Take a place at the end of the line, or over from an earlier run; whether it is its turn already."""
    _alone(connection, place.story)
    now = now_s(connection)
    connection.execute(sa.delete(WAITING).where(WAITING.c.until < now - FORGET_S))
    mine = {"holder": place.holder, "running": False, "until": now + LEASE_S}
    taken_over = connection.execute(
        sa.update(WAITING).where(*_of(place.story), WAITING.c.task == place.task).values(mine)
    )
    if not taken_over.rowcount:
        row = {**place.story._asdict(), "task": place.task, **mine}
        connection.execute(sa.insert(WAITING).values(row))
    return start(connection, place)


def start(connection: Connection, place: Place) -> bool:
    """Begin the turn, where it is its turn.

    Raises:
        InputUnavailable: a later run of the same task has taken the place over.
    """
    _alone(connection, place.story)
    now = now_s(connection)
    rows = connection.execute(sa.select(WAITING).where(*_of(place.story)).order_by(WAITING.c.place)).all()
    if not any(row.holder == place.holder for row in rows):
        raise taken_over(place)
    alive = [row for row in rows if row.until > now]
    if any(row.running and row.holder != place.holder for row in alive) or (
        alive and alive[0].holder != place.holder
    ):
        return False
    # Who is dead has lost his turn, even if he comes back to life.
    connection.execute(sa.update(WAITING).where(*_of(place.story)).values(running=False))
    connection.execute(
        sa.update(WAITING).where(WAITING.c.holder == place.holder).values(running=True, until=now + LEASE_S)
    )
    return True


def end(connection: Connection, place: Place) -> bool:
    """End the turn; False where it was another's meanwhile: this run fell silent and may write nothing."""
    _alone(connection, place.story)
    gone = connection.execute(
        sa.delete(WAITING).where(WAITING.c.holder == place.holder, WAITING.c.running, *_of(place.story))
    )
    return bool(gone.rowcount)


def leave(connection: Connection, place: Place) -> None:
    """Give the place up."""
    connection.execute(sa.delete(WAITING).where(WAITING.c.holder == place.holder, *_of(place.story)))


def _alone(connection: Connection, story: Key) -> None:
    lock(connection, "story", *story)


def _of(story: Key) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return WAITING.c.owner == story.owner, WAITING.c.session == story.session


def _renew(connection: Connection, holders: Collection[str]) -> None:
    until = now_s(connection) + LEASE_S
    connection.execute(sa.update(WAITING).where(WAITING.c.holder.in_(holders)).values(until=until))


def _first(connection: Connection, stories: Collection[Key]) -> dict[Key, str]:
    """Whose turn it is in each story: of him who has it, else of the first who is alive."""
    now = now_s(connection)
    of_these = sa.tuple_(WAITING.c.owner, WAITING.c.session).in_(list(stories))
    rows = connection.execute(
        sa.select(WAITING)
        .where(of_these, WAITING.c.until > now)
        .order_by(WAITING.c.running.desc(), WAITING.c.place)
    )
    first: dict[Key, str] = {}
    for row in rows:
        first.setdefault(Key(row.owner, row.session), row.holder)
    return first


def taken_over(place: Place) -> InputUnavailable:
    """The error for a run that fell silent, and whose turn went to another."""
    return InputUnavailable(
        f"The turn of task {place.task} in story {place.story.session!r} is another run's now.",
        "",
        retryable=True,
    )
