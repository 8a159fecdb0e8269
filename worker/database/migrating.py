"""The tables' revision, and the steps between revisions.

Whoever comes first brings the tables up to date: on SQLite the write lock, on PostgreSQL an advisory lock,
keeps the others waiting. A migration is one transaction on both; one that fails leaves the tables as they
were.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from worker.database.dialects import lock
from worker.errors import InputUnavailable, InvalidTask

#: Alembic says at INFO what it is about to do, in every process.
logging.getLogger("alembic").setLevel(logging.WARNING)
_FOLDER = Path(__file__).parent / "migrations"
#: Alembic's scripts work on what is global to the process.
_one_at_a_time = threading.Lock()

Transaction = Callable[..., AbstractContextManager[Connection]]


def bring_up_to_date(transaction: Transaction) -> None:
    """Take the tables to the newest revision, unless they are there.

    Raises:
        InputUnavailable: they are of a revision this version does not know.
    """
    with transaction() as connection:
        found = revision(connection)
    if found != newest():
        with transaction(write=True) as connection:
            upgrade(connection)


def upgrade(connection: Connection, target: str = "head") -> None:
    """Take the tables up to a revision, in the connection's write transaction.

    Raises:
        InvalidTask: there is no such revision above theirs.
        InputUnavailable: they are of a revision this version does not know.
    """
    lock(connection, "tables")
    known(revision(connection))
    _run(command.upgrade, connection, target)


def downgrade(connection: Connection, target: str) -> None:
    """Take the tables down to a revision, "base" for none at all; errors as for `upgrade`."""
    lock(connection, "tables")
    known(revision(connection))
    _run(command.downgrade, connection, target)


def revision(connection: Connection) -> str | None:
    """The tables' revision; None where there are no tables yet."""
    return MigrationContext.configure(connection).get_current_revision()


def revisions() -> list[str]:
    """All revisions this version knows, oldest first."""
    steps = ScriptDirectory(str(_FOLDER)).walk_revisions()
    return [step.revision for step in steps][::-1]


@cache
def newest() -> str:
    """The newest revision this version knows."""
    return revisions()[-1]


def known(found: str | None) -> None:
    """Refuse a revision this version does not know.

    Raises:
        InputUnavailable: it may pass, where workers are being updated one after the other.
    """
    if found is not None and found not in revisions():
        raise InputUnavailable(
            f"The database is of revision {found}; this version of kc-worker knows {newest()} and older.",
            "Update kc-worker.",
            retryable=True,
        )


def _run(step: Callable[[Config, str], None], connection: Connection, target: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        with _one_at_a_time:
            step(config, target)
    except CommandError as error:
        raise InvalidTask(
            f"The tables cannot be taken to revision {target}: {error}.", f"Known: {', '.join(revisions())}."
        ) from None
