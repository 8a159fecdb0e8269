"""What the commands of `kc-worker story`, and of the chat in it, do to the stories of the database."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import click
from sqlalchemy.engine import Connection

from worker.database.engine import Database
from worker.database.histories import document, markdown, parse, read, write
from worker.database.line import Key
from worker.database.stories import Stories, listed
from worker.errors import InvalidTask
from worker.settings import settings
from worker.wiring import build_database


def opened() -> Database:
    """The database of the settings."""
    return build_database(settings())


def alone(database: Database, key: Key, act: Callable[[Connection, Key], None]) -> None:
    """Do something to a story, between two turns."""

    async def wait_and_act() -> None:
        async with Stories(database).alone(key):
            await database.writing(lambda connection: act(connection, key))

    asyncio.run(wait_and_act())


def show_list(database: Database, owner: str, here: Key | None = None) -> None:
    """Print an owner's stories, the last one told first; a star is before the one we are in."""
    for one in database.read(lambda connection: listed(connection, owner)):
        told = f"{one.updated:%Y-%m-%d %H:%M}" if one.updated else ""
        star = "* " if one.key == here else "  " if here else ""
        click.echo(f"{star}{told}  {one.turns:>6,}  {one.key.session}{f'  {one.name}' if one.name else ''}")


def export_file(database: Database, key: Key, file: Path | None, *, as_markdown: bool) -> None:
    """Write a story into a file, or to standard output.

    Raises:
        InvalidTask: there is no such story, or the file cannot be written.
    """
    story, said = database.read(lambda connection: read(connection, key))
    if as_markdown:
        text = markdown(story, said)
    else:
        text = json.dumps(document(story, said), ensure_ascii=False, indent=2) + "\n"
    if file is None:
        click.echo(text, nl=False)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidTask(f"{file} cannot be written: {error.strerror}.") from None
    click.echo(f"{file}: {len(said):,} messages.")


def import_file(database: Database, file: Path, key: Key, *, replace: bool = False) -> None:
    """Make a story of a file; where `key` names no session, as the file or its name does.

    Raises:
        InvalidTask: the file cannot be read, or the story has turns already.
    """
    try:
        history = parse(file.read_bytes())
    except OSError as error:
        raise InvalidTask(f"{file} cannot be read: {error.strerror}.") from None
    except InvalidTask as error:
        raise InvalidTask(f"{file}: {error}".rstrip()) from None
    key = key._replace(session=key.session or history.session or file.stem)
    alone(database, key, lambda connection, key: write(connection, key, history, replace=replace))
    click.echo(f"{key.session}: {len(history.turns):,} turns.")
