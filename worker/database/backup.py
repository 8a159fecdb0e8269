"""The whole database in one file, and back: to an earlier moment, or from one kind of database to the other.

The file is gzip of JSON lines: a header with the tables' revision; for each table its name and columns, then
its rows as lists; a footer with the number of rows and the SHA-256 of all lines before it. It is read in one
transaction, so it is what the database was at one moment, however much is written meanwhile; nobody waits
for it. Memory stays flat both ways.
"""

import base64
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from worker.database.dialects import count_on, lock, unlimited
from worker.database.engine import Database
from worker.database.migrating import downgrade, known, newest, revision, revisions, upgrade
from worker.database.tables import METADATA
from worker.errors import InputUnavailable, InvalidTask

FORMAT, VERSION = "kc-worker database", 1
#: Rows read, or written, at once.
_ROWS = 500

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a backup holds.

    Attributes:
        revision: of the tables.
        taken: when, ISO 8601.
        rows: of each table, by its name.
    """

    revision: str
    taken: str
    rows: Mapping[str, int]


def tables(connection: Connection) -> list[sa.Table]:
    """Our tables as they are, of whatever revision; those that others refer to first."""
    there = set(sa.inspect(connection).get_table_names())
    found = sa.MetaData()
    found.reflect(connection, only=sorted(there & METADATA.tables.keys()))
    return found.sorted_tables


def counts(connection: Connection) -> dict[str, int]:
    """Rows of each of our tables."""
    return {
        table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        for table in tables(connection)
    }


def backup(database: Database, file: Path) -> Summary:
    """Write the database into a file, which is there when it is whole. Blocking.

    Raises:
        InputUnavailable: there is nothing to back up, or the database or the folder does not work.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with database.transaction() as connection, part.open("wb") as raw:
            unlimited(connection)
            if (found := revision(connection)) is None:
                raise InputUnavailable(f"{database.shown} has no tables yet: there is nothing to back up.")
            known(found)
            with gzip.GzipFile(fileobj=raw, mode="wb", filename="") as packed:
                summary = _write(connection, found, packed.write)
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(file)
    except OSError as error:
        raise InputUnavailable(f"{file} cannot be written: {error.strerror}.") from None
    finally:
        part.unlink(missing_ok=True)
    return summary


def check(file: Path) -> Summary:
    """Read a backup to its end, and say what it holds. Blocking.

    Raises:
        InputUnavailable: it cannot be read, is damaged or cut off, or is of a newer version.
    """
    lines = _read(file)
    header = next(lines)
    rows: dict[str, int] = {}
    for line in lines:
        if isinstance(line, dict):
            rows[name := str(line["table"])] = 0
        else:
            rows[name] += 1
    return Summary(header["revision"], header["taken"], rows)


def restore(database: Database, file: Path, *, replace: bool = False) -> Summary:
    """Make the database what it was when the backup was taken, and bring it up to date. Blocking.

    It is checked before anything is touched, and done in one transaction: if it fails, nothing has changed.

    Args:
        database: of either kind.
        file: written by `backup`, from either kind.
        replace: whether what is in the database may go.

    Raises:
        InvalidTask: the database is not empty.
        InputUnavailable: as `check` says, or the database does not work.
    """
    summary = check(file)
    with database.transaction(write=True) as connection:
        unlimited(connection)
        lock(connection, "tables")
        there = {name: rows for name, rows in counts(connection).items() if rows}
        if there and not replace:
            said = ", ".join(f"{rows:,} in {name}" for name, rows in there.items())
            raise InvalidTask(
                f"{database.shown} is not empty ({said}).",
                "Restore with --replace, which removes what is there.",
            )
        if revision(connection) is not None:
            downgrade(connection, "base")
        upgrade(connection, summary.revision)
        _load(connection, _read(file))
        upgrade(connection)
        for table in tables(connection):
            count_on(connection, table)
    return summary


def _write(connection: Connection, found: str, write: Callable[[bytes], object]) -> Summary:
    digest, rows = hashlib.sha256(), dict[str, int]()
    taken = datetime.now(UTC).isoformat(timespec="seconds")

    def line(value: object) -> None:
        raw = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain).encode() + b"\n"
        digest.update(raw)
        write(raw)

    line({"format": FORMAT, "version": VERSION, "revision": found, "taken": taken})
    for table in tables(connection):
        line({"table": table.name, "columns": [column.name for column in table.columns]})
        rows[table.name] = 0
        query = sa.select(table).order_by(*table.primary_key.columns).execution_options(yield_per=_ROWS)
        for row in connection.execute(query):
            line(list(row))
            rows[table.name] += 1
    write(json.dumps({"rows": sum(rows.values()), "sha256": digest.hexdigest()}).encode() + b"\n")
    return Summary(found, taken, rows)


def _plain(value: object) -> str:
    """A value JSON has no form for."""
    if isinstance(value, datetime):
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no form in a backup")


def _read(file: Path) -> Iterator[Any]:
    """The header, then what names each table, a dict, and its rows, lists; the last one once all is proved.

    Raises:
        InputUnavailable: as `check` says.
    """
    digest, rows, header, named = hashlib.sha256(), 0, None, False
    try:
        with gzip.open(file) as packed:
            lines = iter(packed)
            before = next(lines, b"")
            for line in lines:  # the last one is the footer
                digest.update(before)
                value = json.loads(before)
                if header is None:
                    header = _header(file, value)
                elif isinstance(value, list) and named:
                    rows += 1
                elif isinstance(value, dict) and {"table", "columns"} <= value.keys():
                    named = True
                else:
                    raise ValueError("a line of it is neither a table nor a row")
                yield value
                before = line
        footer = json.loads(before)
        if footer != {"rows": rows, "sha256": digest.hexdigest()}:
            raise ValueError("its end does not fit the rest")
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise InputUnavailable(f"{file} is no whole backup: {error}.", "Use another one.") from None
    except OSError as error:
        raise InputUnavailable(f"{file} cannot be read: {error.strerror}.") from None


def _header(file: Path, header: Any) -> Json:
    if (
        not isinstance(header, dict)
        or header.get("format") != FORMAT
        or not isinstance(header.get("version"), int)
        or not {"revision", "taken"} <= header.keys()
    ):
        raise ValueError("it does not begin like one")
    if header["version"] > VERSION or header["revision"] not in revisions():
        raise InputUnavailable(
            f"{file} is of version {header['version']}, revision {header['revision']}; this kc-worker knows "
            f"{VERSION}, {newest()} and older.",
            "Update kc-worker.",
        )
    return header


def _load(connection: Connection, lines: Iterator[Any]) -> None:
    """Write the rows into the empty tables of their revision."""
    next(lines)
    there = {table.name: table for table in tables(connection)}
    insert, readers = sa.insert(next(iter(there.values()))), list[tuple[str, Callable[[Any], Any]]]()
    while some := list(islice(lines, _ROWS)):
        rows: list[Json] = []
        for line in some:
            if isinstance(line, dict):
                if rows:
                    connection.execute(insert, rows)
                    rows = []
                table = there[line["table"]]
                insert = sa.insert(table)
                readers = [(name, _reader(table.columns[name].type)) for name in line["columns"]]
            else:
                rows.append({name: read(value) for (name, read), value in zip(readers, line, strict=True)})
        if rows:
            connection.execute(insert, rows)


def _reader(kind: sa.types.TypeEngine[Any]) -> Callable[[Any], Any]:
    """How a column's values are read from JSON."""
    if isinstance(kind, sa.DateTime):
        zone = UTC if kind.timezone else None
        return lambda value: value and datetime.fromisoformat(value).replace(tzinfo=zone)
    if isinstance(kind, sa.LargeBinary):
        return lambda value: None if value is None else base64.b64decode(value)
    if isinstance(kind, sa.JSON):
        kind.none_as_null = True
    return lambda value: value
