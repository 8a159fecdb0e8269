"""Transactions, migrations and what goes wrong, on SQLite and on a real PostgreSQL."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.postgresql import PostgreSQL
from worker.database import engine as engine_module
from worker.database.engine import Database
from worker.database.engine import database_url as read_url
from worker.database.migrating import downgrade, newest, revision, revisions, upgrade
from worker.database.tables import METADATA
from worker.errors import InputUnavailable, InvalidTask, SettingsError


def tables(database: Database) -> set[str]:
    with database.transaction() as connection:
        return set(sa.inspect(connection).get_table_names())


def test_the_tables_come_by_themselves(database_url: str) -> None:
    database = Database(database_url)
    assert tables(database) == set()
    assert database.read(revision) == newest()
    assert tables(database) >= {"story", "turn", "message", "waiting", "alembic_version"}
    database.close()


def test_what_the_code_says_of_a_table_is_what_the_migrations_made(database_url: str) -> None:
    database = Database(database_url)

    def compare(connection: sa.Connection) -> None:
        inspector = sa.inspect(connection)
        for table in METADATA.sorted_tables:
            made = {column["name"]: column for column in inspector.get_columns(table.name)}
            assert list(made) == [column.name for column in table.columns]
            for column in table.columns:
                assert made[column.name]["nullable"] == column.nullable, f"{table.name}.{column.name}"
                kind = column.type.impl_instance if isinstance(column.type, sa.TypeDecorator) else column.type
                assert made[column.name]["type"].python_type is kind.python_type

    database.read(compare)
    database.close()


def test_every_table_that_migrations_made_is_known_to_the_code(database_url: str) -> None:
    """Backups hold the tables the code knows."""
    database = Database(database_url)
    database.read(revision)
    assert tables(database) == {*METADATA.tables, "alembic_version"}
    database.close()


def test_every_migration_goes_down_and_up_again(database_url: str) -> None:
    database = Database(database_url)
    for step in revisions():
        with database.transaction(write=True) as connection:
            upgrade(connection, step)
            assert revision(connection) == step
    whole = tables(database)
    for step in [*revisions()[-2::-1], "base"]:
        with database.transaction(write=True) as connection:
            downgrade(connection, step)
    assert tables(database) == {"alembic_version"}
    assert database.read(revision) == newest()
    assert tables(database) == whole
    database.close()


def test_a_migration_that_fails_leaves_nothing_behind(database_url: str) -> None:
    database = Database(database_url)

    def fails() -> None:
        with database.transaction(write=True) as connection:
            upgrade(connection)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert tables(database) == set()
    database.close()


def test_many_processes_may_come_first(database_url: str) -> None:
    code = (
        "import sys; from worker.database.engine import Database; from worker.database.migrating import revision;"
        "database = Database(sys.argv[1]); sys.stdin.read(); print(database.read(revision)); database.close()"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for process in started:  # they have imported everything by now, or soon have: all go at once
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    assert [process.communicate(timeout=60)[0].strip() for process in started] == [newest()] * 6
    assert [process.returncode for process in started] == [0] * 6


def test_a_newer_database_is_refused_with_what_to_do(database_url: str) -> None:
    database = Database(database_url)
    database.write(
        lambda connection: connection.execute(sa.text("UPDATE alembic_version SET version_num='9999'"))
    )
    database.close()
    older = Database(database_url)
    with pytest.raises(InputUnavailable, match=r"revision 9999; .* Update kc-worker\.") as caught:
        older.read(revision)
    assert caught.value.retryable
    older.close()


def test_an_unknown_revision_is_named(database_url: str) -> None:
    database = Database(database_url)
    with (
        pytest.raises(InvalidTask, match=r"revision 7777.*Known: 0001"),
        database.transaction(write=True) as one,
    ):
        upgrade(one, "7777")
    database.close()


def test_what_a_failed_write_wrote_is_gone(database_url: str) -> None:
    database = Database(database_url)

    def fails(connection: sa.Connection) -> None:
        connection.execute(sa.text("DELETE FROM alembic_version"))
        raise KeyError("half way")

    with pytest.raises(KeyError):
        database.write(fails)
    assert database.read(revision) == newest()
    database.close()


def test_a_reader_sees_one_moment_and_does_not_wait_for_writers(database_url: str) -> None:
    database = Database(database_url)
    count = sa.text("SELECT count(*) FROM alembic_version")
    database.read(revision)
    with database.transaction() as reader:
        assert reader.execute(count).scalar() == 1
        database.write(lambda connection: connection.execute(sa.text("DELETE FROM alembic_version")))
        assert reader.execute(count).scalar() == 1
    database.close()


async def test_who_is_cancelled_learns_first_how_the_transaction_ended(database_url: str) -> None:
    database = Database(database_url)
    await database.reading(revision)
    begun, may_go = threading.Event(), threading.Event()

    def slow(connection: sa.Connection) -> None:
        begun.set()
        may_go.wait(30)
        connection.execute(sa.text("UPDATE alembic_version SET version_num='done'"))

    writing = asyncio.create_task(database.writing(slow))
    await asyncio.to_thread(begun.wait, 30)
    writing.cancel()
    asyncio.get_running_loop().call_later(0.05, may_go.set)
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await database.reading(revision) == "done"
    database.close()


def test_a_database_that_is_away_is_an_error_that_may_pass(postgresql: PostgreSQL) -> None:
    url = postgresql.create("away")
    database = Database(url)
    database.read(revision)
    postgresql.stop("immediate")
    try:
        with pytest.raises(InputUnavailable, match="cannot be used") as caught:
            database.read(revision)
        assert caught.value.retryable
        assert postgresql.password not in str(caught.value)
        assert "***" in str(caught.value)
    finally:
        postgresql.start()
    assert database.read(revision) == newest()  # with a new connection
    database.close()
    postgresql.drop("away")


def test_sqlite_held_by_another_is_an_error_that_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "LOCK_TIMEOUT_S", 0.1)
    database, other = Database(f"sqlite:///{tmp_path}/kc.db"), Database(f"sqlite:///{tmp_path}/kc.db")
    database.read(revision)
    with other.transaction(write=True):
        with pytest.raises(InputUnavailable, match="locked") as caught:
            database.write(revision)
        assert database.read(revision) == newest()
    assert caught.value.retryable
    database.close()
    other.close()


def test_a_file_that_is_no_database_stays_one_however_often_it_is_tried(tmp_path: Path) -> None:
    (tmp_path / "kc.db").write_text("No database at all. " * 100)
    database = Database(f"sqlite:///{tmp_path}/kc.db")
    with pytest.raises(InputUnavailable, match="file is not a database") as caught:
        database.read(revision)
    assert not caught.value.retryable
    database.close()


def test_a_folder_that_cannot_be_made_is_an_error_and_only_when_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    database = Database(f"sqlite:///{tmp_path}/file/kc.db")
    with pytest.raises(InputUnavailable, match="unable to open database file"):
        database.read(revision)
    database.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://root:pass1234@localhost/x", "DATABASE_URL begins with mysql://"),
        ("postgresql+asyncpg://root:pass1234@localhost/x", "DATABASE_URL begins with postgresql+asyncpg://"),
        ("nonsense", "DATABASE_URL is not a URL"),
        ("sqlite://", "DATABASE_URL names no file"),
        ("sqlite:///:memory:", "DATABASE_URL names no file"),
        ("sqlite://kc.db", "DATABASE_URL names no file"),
    ],
)
def test_other_databases_are_refused_without_repeating_the_url(url: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_url(url)
    assert says in str(caught.value)
    assert "pass1234" not in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r'pip install "kc-worker\[postgresql\]"'):
        read_url("postgresql://localhost/x")
