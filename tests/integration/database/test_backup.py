"""Backups are one moment of the database, whole or refused, and fit either kind of database."""

import asyncio
import contextlib
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from tests.postgresql import PostgreSQL
from worker.database.backup import backup, check, counts, restore
from worker.database.engine import Database
from worker.database.line import Key
from worker.database.migrating import newest, revision
from worker.database.stories import Ending, Said, Stories, find, messages
from worker.database.tables import MESSAGE, STORY, TURN
from worker.errors import InputUnavailable, InvalidTask

OPEN = Callable[[str], Database]


@pytest.fixture
def empty(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[OPEN]:
    """`empty("sqlite")`, `empty("postgresql")`: databases without tables."""
    opened: list[Database] = []
    made: list[tuple[PostgreSQL, str]] = []

    def make(kind: str) -> Database:
        if kind == "sqlite":
            url = f"sqlite:///{tmp_path}/{len(opened)}.db"
        else:
            server: PostgreSQL = request.getfixturevalue("postgresql")
            made.append((server, f"backup_{uuid4().hex}"))
            url = server.create(made[-1][1])
        opened.append(Database(url))
        return opened[-1]

    yield make
    for database in opened:
        database.close()
    for server, name in made:
        server.drop(name)


async def tell(database: Database, session: str, turns: int, owner: str = "") -> None:
    stories, key = Stories(database), Key(owner, session)
    for number in range(turns):
        async with stories.turn(key, f"{session}-{number}") as turn:
            said = [
                Said("user", f"Pytanie {number}: zażółć 🐍", 5),
                Said("assistant", f"Odpowiedź\n{number}", 7),
            ]
            await stories.finish(turn, Ending(said, {"usage": {"prompt_tokens": number}}))


def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    def read(connection: sa.Connection) -> dict[str, list[tuple[Any, ...]]]:
        return {
            table.name: [
                tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key))
            ]
            for table in (STORY, TURN, MESSAGE)
        }

    return database.read(read)


def inconsistencies(connection: sa.Connection) -> list[str]:
    """What is wrong with the stories: turns that miss, or that are not whole."""
    found = []
    for story in connection.execute(sa.select(STORY)):
        said = messages(connection, Key(story.owner, story.session))
        places = [(one.turn, one.role) for one in said]
        whole = [(number, role) for number in range(1, story.turns + 1) for role in ("user", "assistant")]
        if places != whole:
            found.append(f"{story.session}: {story.turns} turns, but {places}")
    return found


@pytest.mark.parametrize("to", ["sqlite", "postgresql"])
@pytest.mark.parametrize("of", ["sqlite", "postgresql"])
async def test_a_backup_of_one_is_the_same_in_the_other(
    of: str, to: str, empty: OPEN, tmp_path: Path
) -> None:
    before, after, file = empty(of), empty(to), tmp_path / "backup.gz"
    await tell(before, "rivers", 3)
    await tell(before, "rivers", 2, owner="tenant")
    written = backup(before, file)
    assert written == check(file) == restore(after, file)
    assert {name: rows for name, rows in written.rows.items() if rows} == {
        "story": 2,
        "turn": 5,
        "message": 10,
    }
    assert everything(after) == everything(before)
    await tell(after, "seas", 1)  # numbers go on after those restored
    assert len(everything(after)["message"]) == 12


async def test_a_backup_taken_while_many_write_is_one_moment(
    database_url: str, empty: OPEN, tmp_path: Path
) -> None:
    database, taken = Database(database_url), list[Path]()
    await tell(database, "earlier", 1)
    stop = asyncio.Event()

    async def write(session: str) -> None:
        stories, number = Stories(database), 0
        while not stop.is_set():
            async with stories.turn(Key("", session), f"{session}-{number}") as turn:
                said = [Said("user", f"{number}" * 50), Said("assistant", f"{number}" * 200)]
                await stories.finish(turn, Ending(said, {}))
            number += 1

    writing = [asyncio.create_task(write(f"story {n}")) for n in range(6)]
    reader = Database(database_url)
    for number in range(4):
        await asyncio.sleep(0.3)
        taken.append(tmp_path / f"{number}.gz")
        await asyncio.to_thread(backup, reader, taken[-1])
    stop.set()
    await asyncio.gather(*writing)
    sizes = []
    for file in taken:
        after = empty("sqlite")
        sizes.append(restore(after, file).rows["message"])
        assert after.read(inconsistencies) == []
        assert after.read(counts)["story"] >= 2
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]
    reader.close()
    database.close()


async def test_a_database_that_is_not_empty_is_left_alone_unless_it_may_go(
    database_url: str, tmp_path: Path
) -> None:
    database, file = Database(database_url), tmp_path / "backup.gz"
    await tell(database, "old", 2)
    backup(database, file)
    await tell(database, "new", 1)
    with pytest.raises(InvalidTask, match=r"is not empty \(2 in story.* --replace"):
        restore(database, file)
    assert len(everything(database)["turn"]) == 3
    restore(database, file, replace=True)
    assert database.read(lambda one: find(one, Key("", "new"))) is None
    assert len(everything(database)["turn"]) == 2
    database.close()


def damaged(raw: bytes) -> dict[str, bytes]:
    lines = gzip.decompress(raw).splitlines(keepends=True)
    other = [line.replace(b"Pytanie 0", b"Pytanie 1") for line in lines]
    newer = json.loads(lines[0]) | {"revision": "9999"}
    return {
        "cut off": raw[: len(raw) // 2],
        "without its end": gzip.compress(b"".join(lines[:-1])),
        "with a line less": gzip.compress(b"".join([*lines[:5], *lines[6:]])),
        "with another word": gzip.compress(b"".join(other)),
        "with a bit turned": raw[:100] + bytes([raw[100] ^ 1]) + raw[101:],
        "empty": b"",
        "no gzip": b"".join(lines),
        "something else": gzip.compress(b'{"items": []}\n{"id": 1}\n'),
        "newer": gzip.compress(b"".join([json.dumps(newer).encode() + b"\n", *lines[1:]])),
    }


async def test_a_damaged_backup_is_refused_before_anything_is_touched(
    database_url: str, tmp_path: Path
) -> None:
    database, file = Database(database_url), tmp_path / "backup.gz"
    await tell(database, "rivers", 2)
    backup(database, file)
    before = everything(database)
    for name, raw in damaged(file.read_bytes()).items():
        bad = tmp_path / f"{name}.gz"
        bad.write_bytes(raw)
        with pytest.raises(InputUnavailable, match=r"is no whole backup|Update kc-worker") as caught:
            restore(database, bad, replace=True)
        assert bad.name in str(caught.value)
    assert everything(database) == before
    database.close()


@given(data=st.data())
def test_whatever_bit_is_turned_a_backup_is_refused_or_the_same(
    data: st.DataObject, one_backup: bytes
) -> None:
    at = data.draw(st.integers(0, len(one_backup) - 1))
    turned = bytearray(one_backup)
    turned[at] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.NamedTemporaryFile(suffix=".gz") as file:
        Path(file.name).write_bytes(one_backup)
        whole = check(Path(file.name))
        Path(file.name).write_bytes(turned)
        with contextlib.suppress(InputUnavailable):
            assert check(Path(file.name)) == whole  # gzip's own header has bits that mean nothing


@pytest.fixture(scope="module")
def one_backup(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("backup")
    with Database(f"sqlite:///{folder}/kc.db") as database:
        asyncio.run(tell(database, "rivers", 3))
        backup(database, folder / "backup.gz")
    return (folder / "backup.gz").read_bytes()


async def test_a_restore_that_fails_halfway_changes_nothing(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, file = Database(database_url), tmp_path / "backup.gz"
    await tell(database, "rivers", 2)
    backup(database, file)
    await tell(database, "seas", 1)
    before = everything(database)
    monkeypatch.setattr("worker.database.backup.count_on", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        restore(database, file, replace=True)
    assert everything(database) == before
    assert database.read(revision) == newest()
    database.close()


def test_a_backup_that_cannot_be_written_says_so_and_leaves_nothing(
    database_url: str, tmp_path: Path
) -> None:
    database = Database(database_url)
    with pytest.raises(InputUnavailable, match="no tables yet"):
        backup(database, tmp_path / "backup.gz")
    database.read(revision)
    with pytest.raises(InputUnavailable, match="cannot be written"):
        backup(database, tmp_path / "nowhere" / "backup.gz")
    assert not list(tmp_path.glob("*backup*"))
    database.close()


_MEASURED = """
import resource, sys
from pathlib import Path
from worker.database.backup import backup, restore
from worker.database.engine import Database
with Database(sys.argv[1]) as database:
    if sys.argv[3] == "restore":
        restore(database, Path(sys.argv[2]))
    else:
        backup(database, Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


async def test_memory_stays_flat_both_ways(database_url: str, empty: OPEN, tmp_path: Path) -> None:
    """Ten times the rows: not a tenth of what they hold is added to the memory it takes."""

    def peak_kib(url: str, file: Path, act: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, url, str(file), act], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    database, file = Database(database_url), tmp_path / "backup.gz"
    await tell(database, "rivers", 1)
    small = peak_kib(database_url, file, "backup")
    text = "x" * 5000

    def fill(connection: sa.Connection) -> None:
        for number in range(2, 10_002):
            key = {"owner": "", "session": "rivers"}
            connection.execute(sa.insert(TURN).values(**key, number=number, meta={}))
            row = {**key, "turn": number, "position": 0, "role": "user", "content": text, "tokens": 1}
            connection.execute(sa.insert(MESSAGE).values(**row, date=sa.func.current_timestamp()))

    database.write(fill)
    database.close()
    assert peak_kib(database_url, file, "backup") - small < 20_000  # of 50,000
    after = f"sqlite:///{tmp_path}/after.db"
    assert peak_kib(after, file, "restore") - small < 25_000
