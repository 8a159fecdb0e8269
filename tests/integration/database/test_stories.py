"""A story in the database: whole turns, one at a time, in order, whoever dies in between."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import sqlalchemy as sa

from tests.postgresql import PostgreSQL
from worker.database import line as line_module
from worker.database.engine import Database
from worker.database.line import Key
from worker.database.stories import (
    Ending,
    Said,
    Stories,
    Turn,
    change,
    clear,
    delete,
    find,
    listed,
    messages,
)
from worker.database.tables import MESSAGE, TURN, WAITING
from worker.errors import InputUnavailable, InvalidTask

KEY = Key("", "s")


@pytest.fixture
async def stories(database_url: str) -> AsyncIterator[Stories]:
    database = Database(database_url)
    yield Stories(database)
    await asyncio.sleep(0)
    database.close()


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Stories]:
    """The stories as another worker sees them."""
    database = Database(database_url)
    yield Stories(database)
    await asyncio.sleep(0)
    database.close()


def ending(number: int) -> Ending:
    said = [Said("user", f"prompt {number}", 3), Said("assistant", f"answer {number}", 4)]
    return Ending(said, {"model": "m", "usage": {}, "finish_reason": "stop"})


async def take(stories: Stories, task: str, key: Key = KEY) -> Turn:
    async with stories.turn(key, task) as turn:
        if turn.told is None:
            await stories.finish(turn, ending(turn.number))
        return turn


def rows(stories: Stories, table: sa.Table) -> int:
    found: int = stories.database.read(
        lambda connection: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    )
    return found


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def standing(stories: Stories, number: int) -> None:
    """Until so many stand in the line."""
    await until(lambda: rows(stories, WAITING) >= number)


async def test_a_turn_is_written_once_however_often_its_task_comes(stories: Stories, other: Stories) -> None:
    first = await take(stories, "one")
    again = await take(other, "one")
    assert first.told is None
    assert again.told is not None
    assert (again.told.number, again.told.text, again.told.meta["model"]) == (1, "answer 1", "m")
    assert (rows(stories, TURN), rows(stories, MESSAGE), rows(stories, WAITING)) == (1, 2, 0)


async def test_a_turn_sees_what_was_said_and_nobody_else_writes_meanwhile(stories: Stories) -> None:
    await take(stories, "one")
    async with stories.turn(KEY, "two") as turn:
        assert [(one.role, one.content, one.tokens, one.turn) for one in turn.messages] == [
            ("user", "prompt 1", 3, 1), ("assistant", "answer 1", 4, 1),
        ]  # fmt: skip
        assert turn.messages[0].date is not None
        assert abs(turn.messages[0].date.timestamp() - time.time()) < 60
        third = asyncio.create_task(take(stories, "three"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(third), 0.4)
        await stories.finish(turn, ending(2))
    assert (await third).number == 3


async def test_two_workers_take_turns_in_the_order_they_came(stories: Stories, other: Stories) -> None:
    order: list[int] = []

    async def tell(number: int) -> None:
        where = (stories, other)[number % 2]
        async with where.turn(KEY, f"task {number}") as turn:
            order.append(number)
            await asyncio.sleep(0.01)
            await where.finish(turn, ending(turn.number))

    async with stories.turn(KEY, "first") as turn:
        telling = []
        for number in range(10):
            telling.append(asyncio.create_task(tell(number)))
            await standing(stories, number + 2)  # it stands in the line before the next one comes
        await stories.finish(turn, ending(1))
    await asyncio.gather(*telling)
    assert order == list(range(10))
    assert rows(stories, TURN) == 11
    said = stories.database.read(lambda one: messages(one, KEY))
    assert [one.turn for one in said] == [number for number in range(1, 12) for _ in range(2)]


async def test_many_writers_at_once_lose_and_double_nothing(stories: Stories, other: Stories) -> None:
    turns = await asyncio.gather(*(take((stories, other)[n % 2], f"task {n}") for n in range(40)))
    assert sorted(turn.number for turn in turns) == list(range(1, 41))
    assert (rows(stories, TURN), rows(stories, MESSAGE), rows(stories, WAITING)) == (40, 80, 0)


async def test_a_turn_that_is_left_without_an_ending_leaves_nothing(stories: Stories) -> None:
    with pytest.raises(KeyError):
        async with stories.turn(KEY, "one"):
            raise KeyError
    assert (rows(stories, TURN), rows(stories, MESSAGE), rows(stories, WAITING)) == (0, 0, 0)
    assert stories.database.read(lambda one: find(one, KEY)) is None


async def test_who_stops_waiting_leaves_the_line(stories: Stories) -> None:
    async with stories.turn(KEY, "one") as turn:
        second = asyncio.create_task(take(stories, "two"))
        await standing(stories, 2)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert rows(stories, WAITING) == 1
        await stories.finish(turn, ending(1))
    assert (await take(stories, "three")).number == 2


class Killed:
    """What a worker that was killed with -9 leaves behind: a turn begun, its lease no longer renewed."""

    def __init__(self, database_url: str, task: str, key: Key = KEY) -> None:
        self.stories = Stories(Database(database_url))
        self._turn = self.stories.turn(key, task)
        self.begun: Turn

    async def start(self) -> "Killed":
        self.begun = await self._turn.__aenter__()
        keeper = self.stories._line._keeper
        assert keeper is not None
        keeper.cancel()
        return self

    async def bury(self) -> None:
        await self._turn.__aexit__(None, None, None)
        self.stories.database.close()


async def test_a_killed_workers_turn_is_over_when_its_lease_ends(
    stories: Stories, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_module, "LEASE_S", 0.6)
    killed = await Killed(database_url, "killed").start()
    began = time.monotonic()
    monkeypatch.setattr(line_module, "LEASE_S", 30.0)
    assert (await take(stories, "next")).number == 1
    assert time.monotonic() - began > 0.3
    with pytest.raises(
        InputUnavailable, match="another run's now"
    ) as caught:  # it comes back to life, too late
        await killed.stories.finish(killed.begun, ending(1))
    assert caught.value.retryable
    assert rows(stories, TURN) == 1
    await killed.bury()


async def test_the_same_task_delivered_again_takes_over_at_once_and_the_earlier_run_is_refused(
    stories: Stories, database_url: str
) -> None:
    killed = await Killed(database_url, "one").start()
    waiting = asyncio.create_task(take(stories, "two"))
    await standing(stories, 2)
    async with asyncio.timeout(5):  # not the 30 s of the lease
        assert (await take(stories, "one")).number == 1
    assert (await waiting).number == 2
    # The first run's answer comes late: its turn is there, and stays as it is.
    await killed.stories.finish(killed.begun, Ending([Said("user", "late"), Said("assistant", "late")], {}))
    assert rows(stories, MESSAGE) == 4
    assert "late" not in {one.content for one in stories.database.read(lambda one: messages(one, KEY))}
    await killed.bury()


async def test_a_redelivered_task_keeps_its_place_in_the_line(
    stories: Stories, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    async def tell(task: str) -> None:
        async with stories.turn(KEY, task) as turn:
            order.append(task)
            await stories.finish(turn, ending(turn.number))

    async with stories.turn(KEY, "running") as turn:
        dead = Stories(Database(database_url))
        gone = asyncio.create_task(take(dead, "first"))
        await standing(stories, 2)
        second = asyncio.create_task(tell("second"))
        await standing(stories, 3)
        first = asyncio.create_task(tell("first"))
        [gone_place] = dead._line._places
        await until(lambda: holders(stories, "first") != {gone_place.holder})
        await stories.finish(turn, ending(1))
    await asyncio.gather(first, second)
    assert order == ["first", "second"]
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    dead.database.close()


def holders(stories: Stories, task: str) -> set[str]:
    query = sa.select(WAITING.c.holder).where(WAITING.c.task == task)
    return stories.database.read(lambda connection: set(connection.execute(query).scalars()))


async def test_a_long_turn_keeps_its_lease(
    stories: Stories, other: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_module, "LEASE_S", 3.0)
    monkeypatch.setattr(line_module, "RENEW_S", 0.3)
    async with stories.turn(KEY, "long") as turn:
        waiting = asyncio.create_task(take(other, "next"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 5.0)
        await stories.finish(turn, ending(1))
    assert (await waiting).number == 2


async def test_a_database_that_is_away_for_a_while_costs_no_answer(postgresql: PostgreSQL) -> None:
    stories = Stories(Database(postgresql.create("outage")))
    async with stories.turn(KEY, "one") as turn:
        postgresql.stop("immediate")
        finishing = asyncio.create_task(stories.finish(turn, ending(1)))
        await asyncio.sleep(0.3)
        postgresql.start()
        await finishing
    assert rows(stories, TURN) == 1
    stories.database.close()
    postgresql.drop("outage")


async def test_a_database_that_is_away_ends_the_waiting_with_an_error_that_may_pass(
    postgresql: PostgreSQL,
) -> None:
    stories = Stories(Database(postgresql.create("outage")))
    async with stories.turn(KEY, "one") as turn:
        waiting = asyncio.create_task(take(stories, "two"))
        await standing(stories, 2)
        postgresql.stop("immediate")
        with pytest.raises(InputUnavailable, match="cannot be used") as caught:
            await waiting
        postgresql.start()
        assert caught.value.retryable
        await stories.finish(turn, ending(1))
    stories.database.close()
    postgresql.drop("outage")


async def test_a_database_that_is_away_is_not_asked_without_a_pause(
    stories: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_module, "RENEW_S", 0.05)
    async with stories.turn(KEY, "t"):
        asked = 0

        async def refuse(_work: object) -> None:
            nonlocal asked
            asked += 1
            raise InputUnavailable("It is away.", retryable=True)

        monkeypatch.setattr(stories.database, "writing", refuse)
        await asyncio.sleep(0.5)
        assert 1 <= asked <= 2
        monkeypatch.undo()


async def test_clearing_waits_for_the_turn_that_runs(stories: Stories) -> None:
    async def clear_it() -> None:
        async with stories.alone(KEY):
            await stories.database.writing(lambda one: clear(one, KEY))

    await take(stories, "one")
    async with stories.turn(KEY, "two") as turn:
        clearing = asyncio.create_task(clear_it())
        await standing(stories, 2)
        await stories.finish(turn, ending(2))
    await clearing
    assert (rows(stories, TURN), rows(stories, MESSAGE)) == (0, 0)
    assert (await take(stories, "three")).number == 1


async def test_stories_are_listed_renamed_and_deleted(stories: Stories) -> None:
    for session in ("a", "b", "c"):
        await take(stories, f"of {session}", Key("", session))
    await take(stories, "of another", Key("tenant", "a"))
    stories.database.write(lambda one: change(one, Key("", "a"), name="The first"))
    found = stories.database.read(lambda one: listed(one, ""))
    assert [(story.key.session, story.name, story.turns) for story in found] == [
        ("a", "The first", 1), ("c", "", 1), ("b", "", 1),
    ]  # fmt: skip
    stories.database.write(lambda one: delete(one, Key("", "a")))
    assert rows(stories, TURN) == 3
    assert rows(stories, MESSAGE) == 6
    for act in (clear, delete):
        with pytest.raises(InvalidTask, match="There is no story 'a'"):
            stories.database.write(lambda one, act=act: act(one, Key("", "a")))  # type: ignore[misc]
