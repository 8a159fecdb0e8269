"""One database, used from threads of its own: transactions that end well, or in an error that says why.

SQLite is opened by several processes at once: it writes ahead (WAL), readers never wait, and a writer takes
the lock when it begins (BEGIN IMMEDIATE), not halfway, where waiting could not help. PostgreSQL is given
limits, so that a lost server is an error and not a hang.
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine, make_url

from worker.database.migrating import bring_up_to_date
from worker.errors import InputUnavailable, SettingsError

T = TypeVar("T")

#: Transactions of one process that read, and that write, at once; each has a thread and a connection.
THREADS = 4
#: Seconds a writer of SQLite waits for another one, and a connection to PostgreSQL may take to be there.
LOCK_TIMEOUT_S, CONNECT_TIMEOUT_S = 20, 5
#: Seconds one statement may take on PostgreSQL.
STATEMENT_TIMEOUT_S = 30

_HINT = "Check DATABASE_URL, and the server or the disk behind it."


class Database:
    """The database of DATABASE_URL; its tables are brought up to date before they are first used.

    Args:
        url: `sqlite:///FILE` or `postgresql://…`; as `database_url` says.

    Raises:
        SettingsError: the URL is of neither kind, or PostgreSQL's driver is not installed.
    """

    def __init__(self, url: str) -> None:
        parsed = database_url(url)
        #: Where it is, for people; without the password.
        self.shown = parsed.set(drivername=parsed.get_backend_name()).render_as_string(hide_password=True)
        self._password = parsed.password or ""
        one_writer = parsed.get_backend_name() == "sqlite"
        self._engine = _sqlite(parsed) if one_writer else _postgresql(parsed)
        self._readers = ThreadPoolExecutor(THREADS, "kc-database-read")
        # SQLite lets one write at a time, and those who wait for it go on in any order, after long pauses.
        self._writers = ThreadPoolExecutor(1 if one_writer else THREADS, "kc-database-write")
        self._preparing = threading.Lock()
        self._prepared = False

    def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` finds, on one snapshot. Blocking.

        Raises:
            InputUnavailable: the database does not work now (`retryable`), or never will as it is.
        """
        self._prepare()
        with self.transaction() as connection:
            return work(connection)

    def write(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns; all it wrote is there, or nothing. Blocking; errors as for `read`."""
        self._prepare()
        with self.transaction(write=True) as connection:
            return work(connection)

    async def reading(self, work: Callable[[Connection], T]) -> T:
        """`read`, beside the loop."""
        return await _beside(self._readers, self.read, work)

    async def writing(self, work: Callable[[Connection], T]) -> T:
        """`write`, beside the loop; who is cancelled meanwhile waits for its end."""
        return await _beside(self._writers, self.write, work)

    @contextlib.contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[Connection]:
        """A connection in a transaction, committed at the end; the tables are as they were found."""
        try:
            with self._engine.connect() as connection:
                connection.execution_options(kc_write=write)
                with connection.begin():
                    yield connection
        except exc.SQLAlchemyError as error:
            if (unavailable := self._unavailable(error)) is None:
                raise  # a bug
            raise unavailable from error

    def close(self) -> None:
        """Close all connections, once what is under way has ended."""
        self._readers.shutdown()
        self._writers.shutdown()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        with self._preparing:
            if not self._prepared:
                bring_up_to_date(self.transaction)
                self._prepared = True

    def _unavailable(self, error: exc.SQLAlchemyError) -> InputUnavailable | None:
        """The error for a person; None where it is not the database's fault."""
        passing = isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError) or (
            isinstance(error, exc.DBAPIError) and error.connection_invalidated
        )
        broken = isinstance(error, exc.DatabaseError) and type(error.orig) is sqlite3.DatabaseError
        if not passing and not broken:
            return None
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        if self._password:
            reason = reason.replace(self._password, "***")
        return InputUnavailable(
            f"The database {self.shown} cannot be used: {reason}.", _HINT, retryable=passing
        )


async def _beside(
    threads: ThreadPoolExecutor,
    run: Callable[[Callable[[Connection], T]], T],
    work: Callable[[Connection], T],
) -> T:
    """In a thread. A transaction is not cancelled halfway: who waits for it learns how it ended."""
    running = asyncio.get_running_loop().run_in_executor(threads, run, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((running,))
        if not running.cancelled():
            running.exception()  # nobody else asks
        raise


def database_url(url: str) -> URL:
    """A database's URL, read.

    Raises:
        SettingsError: it is neither `sqlite:///FILE` nor `postgresql://USER:PASSWORD@HOST:PORT/NAME`, or
            the driver is not installed. It does not repeat the URL: there may be a password in it.
    """
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise SettingsError(f"DATABASE_URL is not a URL. {_KNOWN}") from None
    if parsed.drivername == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.host:
            raise SettingsError(
                "DATABASE_URL names no file: write sqlite:///FILE (sqlite:////FILE from the root)."
            )
        return parsed
    if parsed.drivername != "postgresql":
        raise SettingsError(f"DATABASE_URL begins with {parsed.drivername}://. {_KNOWN}")
    if find_spec("psycopg") is None:
        raise SettingsError(
            'DATABASE_URL is of PostgreSQL, whose driver is missing: pip install "kc-worker[postgresql]".'
        )
    return parsed.set(drivername="postgresql+psycopg")


_KNOWN = "It is sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME."


def _sqlite(url: URL) -> Engine:
    engine = sa.create_engine(
        url,
        pool_size=2 * THREADS,
        max_overflow=0,
        pool_timeout=LOCK_TIMEOUT_S,
        connect_args={"timeout": LOCK_TIMEOUT_S},
    )

    @event.listens_for(engine, "do_connect")
    def connecting(*_: object) -> None:
        with contextlib.suppress(OSError):  # SQLite says itself that it cannot open the file
            Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where `begun` begins them
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        write = connection.get_execution_options().get("kc_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    limits = {
        "statement_timeout": STATEMENT_TIMEOUT_S,
        "lock_timeout": LOCK_TIMEOUT_S,
        "idle_in_transaction_session_timeout": STATEMENT_TIMEOUT_S,
    }
    given: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": STATEMENT_TIMEOUT_S * 1000,
        "application_name": "kc-worker",
        "options": " ".join(f"-c {name}={seconds}s" for name, seconds in limits.items()),
    }
    engine = sa.create_engine(
        url,
        pool_size=2 * THREADS,
        max_overflow=0,
        pool_timeout=LOCK_TIMEOUT_S,
        pool_pre_ping=True,
        connect_args=given,
    )

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        if not connection.get_execution_options().get("kc_write"):
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")

    return engine
