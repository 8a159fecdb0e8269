"""What SQLite and PostgreSQL do each in their own way."""

import hashlib
import time

import sqlalchemy as sa
from sqlalchemy.engine import Connection


def lock(connection: Connection, *names: str) -> None:
    """Be the only one under this name, to the end of the write transaction.

    On SQLite every write transaction is the only one already.
    """
    if connection.dialect.name == "postgresql":
        digest = hashlib.sha256("\0".join(names).encode()).digest()
        number = int.from_bytes(digest[:8], "big", signed=True)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.cast(number, sa.BigInteger))))


def now_s(connection: Connection) -> float:
    """Unix time by a clock that all who share the database share."""
    if connection.dialect.name == "postgresql":
        return float(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return time.time()


def unlimited(connection: Connection) -> None:
    """Let the statements of this transaction take as long as they take."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))


def count_on(connection: Connection, table: sa.Table) -> None:
    """Let the numbers a table gives to its rows go on after those it has."""
    counted = table.autoincrement_column
    if connection.dialect.name == "postgresql" and counted is not None:
        sequence = sa.func.pg_get_serial_sequence(table.name, counted.name)
        last = sa.select(sa.func.max(counted)).scalar_subquery()
        connection.execute(sa.select(sa.func.setval(sequence, last)).where(last.is_not(None)))
