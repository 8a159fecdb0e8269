"""`kc-worker database`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli.options import age

if TYPE_CHECKING:
    from worker.database.backup import Summary
    from worker.database.engine import Database

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def database() -> None:
    """What is remembered in SQL, in DATABASE_URL: stories and their messages, diagrams."""


@database.command()
def status() -> None:
    """Where it is, the revision of its tables, and how many rows they have."""
    from worker.database.backup import counts
    from worker.database.migrating import newest, revision

    with _opened() as opened, opened.transaction() as connection:
        found = revision(connection)
        click.echo(f"{opened.shown}")
        click.echo(f"revision {found or 'none: no tables yet'}, newest known {newest()}")
        for name, rows in counts(connection).items():
            click.echo(f"{rows:>12,}  {name}")


@database.command()
@click.argument("target", metavar="[REVISION]", default="head")
def upgrade(target: str) -> None:
    """Take the tables up to the newest REVISION, or to this one. Workers do so by themselves."""
    from worker.database import migrating

    with _opened() as opened, opened.transaction(write=True) as connection:
        migrating.upgrade(connection, target)
        click.echo(f"{opened.shown} is at revision {migrating.revision(connection)}.")


@database.command()
@click.argument("target", metavar="REVISION")
@click.confirmation_option(prompt="What newer revisions keep will be lost. Go on?")
def downgrade(target: str) -> None:
    """Take the tables down to REVISION, for an older kc-worker; "base" removes them. Stop workers first."""
    from worker.database import migrating

    with _opened() as opened, opened.transaction(write=True) as connection:
        migrating.downgrade(connection, target)
        click.echo(f"{opened.shown} is at revision {migrating.revision(connection) or 'none'}.")


@database.command()
@click.argument("file", type=_FILE)
def backup(file: Path) -> None:
    """Write everything into FILE, as it is at one moment; workers go on meanwhile."""
    from worker.database.backup import backup as write

    with _opened() as opened:
        click.echo(f"{file}: {_said(write(opened, file))}.")


@database.command()
@click.argument("file", type=_FILE)
@click.option("--replace", is_flag=True, help="Remove what is in the database.")
@click.option("--check", "only_check", is_flag=True, help="Only prove that FILE is whole.")
def restore(file: Path, *, replace: bool, only_check: bool) -> None:
    """Put back what is in FILE, from SQLite or PostgreSQL, into the database of DATABASE_URL.

    FILE is proved whole first, and all is done in one transaction. A database that is not empty is refused.
    """
    from worker.database.backup import check
    from worker.database.backup import restore as read

    if only_check:
        click.echo(f"{file} is whole: {_said(check(file))}.")
        return
    with _opened() as opened:
        click.echo(f"{opened.shown}: {_said(read(opened, file, replace=replace))}.")


@database.command()
@click.option("--older-than", required=True, callback=age, help="12h, 30d …")
def sweep(older_than: float) -> None:
    """Remove old requests for diagrams, and what was found for them; stories stay.

    What a younger request was answered with is kept.
    """
    from worker.database.drawings import sweep as remove

    with _opened() as opened:
        requests, results = remove(opened, datetime.now(UTC) - timedelta(seconds=older_than))
        click.echo(f"{requests:,} requests and {results:,} results removed.")


def _opened() -> "Database":
    from worker.settings import settings
    from worker.wiring import build_database

    return build_database(settings())


def _said(summary: "Summary") -> str:
    rows = ", ".join(f"{rows:,} in {name}" for name, rows in summary.rows.items())
    return f"{rows} (revision {summary.revision}, of {summary.taken})"
