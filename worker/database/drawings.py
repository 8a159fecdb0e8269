"""What was asked about diagrams, and what was found in them."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from worker.database.dialects import unlimited
from worker.database.engine import Database
from worker.database.tables import DIAGRAM_REQUEST, DIAGRAM_RESULT

Json = dict[str, Any]

#: Characters of a file's name and of an error that are kept.
_MOST_NAME, _MOST_ERROR = 255, 1000


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as it ended.

    Attributes:
        task: id of its task; the last one of that id is kept.
        owner: whose it is; "" nobody's.
        file_name, file_type, file_hash, file_bytes: of what was sent.
        model, adapter, prompt_version: what it was asked of; "" where no model was.
        cached: whether it was known already.
        seconds: it took.
        steps: how many were found.
        outcome: "success", or the error's type.
        error: what it says.
        result: key of what was found; "" for nothing.
    """

    task: str
    owner: str
    file_name: str
    file_type: str
    file_hash: str
    file_bytes: int
    model: str
    adapter: str
    prompt_version: str
    cached: bool
    seconds: float
    steps: int
    outcome: str
    error: str
    result: str


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a diagram.

    Attributes:
        steps: as `Process.as_json` has them.
        meta: of the result it comes from.
    """

    steps: list[Json]
    meta: Json


class Drawings:
    """Requests and results. Every method raises InputUnavailable while the database does not work.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key: str) -> Found | None:
        """What was found under a key."""

        def look(connection: Connection) -> Found | None:
            asked = sa.select(DIAGRAM_RESULT.c.steps, DIAGRAM_RESULT.c.meta).where(
                DIAGRAM_RESULT.c.key == key
            )
            row = connection.execute(asked).first()
            return Found(row.steps, row.meta) if row else None

        return await self._database.reading(look)

    async def keep(self, key: str, found: Found) -> None:
        """Remember what was found; what is there already stays."""
        row = {"key": key, "steps": found.steps, "meta": found.meta, "date": datetime.now(UTC)}

        def write(connection: Connection) -> None:
            _put(connection, DIAGRAM_RESULT, row, replace=False)

        await self._database.writing(write)

    async def log(self, request: Request) -> None:
        """Remember a request; the same task again is the same request."""
        now = datetime.now(UTC)
        row = {**asdict(request), "date": now, "day": now.date().isoformat()}
        row["file_name"], row["error"] = request.file_name[:_MOST_NAME], request.error[:_MOST_ERROR]

        def write(connection: Connection) -> None:
            _put(connection, DIAGRAM_REQUEST, row, replace=True)

        await self._database.writing(write)

    async def recent(self, owner: str, limit: int, file_hash: str | None = None) -> list[Json]:
        """An owner's last requests, the newest first; of one file where its hash is given."""
        table = DIAGRAM_REQUEST
        asked = sa.select(table).where(table.c.owner == owner)
        if file_hash is not None:
            asked = asked.where(table.c.file_hash == file_hash)
        asked = asked.order_by(table.c.date.desc(), table.c.task).limit(limit)
        return await self._database.reading(
            lambda connection: [dict(row._mapping) for row in connection.execute(asked)]  # noqa: SLF001 - its API
        )

    async def statistics(self, owner: str, days: int) -> Json:
        """Sums over an owner's requests: `total`, and lists by type, by model, by outcome and by day."""
        table = DIAGRAM_REQUEST
        sums = (
            sa.func.count().label("requests"),
            sa.func.sum(sa.case((table.c.cached, 1), else_=0)).label("cached"),
            sa.func.sum(sa.case((table.c.outcome != "success", 1), else_=0)).label("errors"),
            sa.func.avg(table.c.seconds).label("mean_seconds"),
        )

        def look(connection: Connection) -> Json:
            mine = table.c.owner == owner
            found: Json = {"total": dict(connection.execute(sa.select(*sums).where(mine)).one()._mapping)}  # noqa: SLF001
            for name in ("file_type", "model", "outcome", "day"):
                column = table.c[name]
                asked = sa.select(column, *sums).where(mine).group_by(column).order_by(column.desc())
                rows = connection.execute(asked.limit(days) if name == "day" else asked)
                found[name] = [dict(row._mapping) for row in rows]  # noqa: SLF001
            return found

        return await self._database.reading(look)


def sweep(database: Database, before: datetime) -> tuple[int, int]:
    """Remove what is older than a moment, but results that younger requests refer to. Blocking.

    Returns:
        Requests and results that were removed.

    Raises:
        InputUnavailable: the database does not work now.
    """

    def remove(connection: Connection) -> tuple[int, int]:
        unlimited(connection)
        requests = connection.execute(sa.delete(DIAGRAM_REQUEST).where(DIAGRAM_REQUEST.c.date < before))
        results = connection.execute(
            sa.delete(DIAGRAM_RESULT).where(
                DIAGRAM_RESULT.c.date < before,
                DIAGRAM_RESULT.c.key.not_in(sa.select(DIAGRAM_REQUEST.c.result)),
            )
        )
        return requests.rowcount, results.rowcount

    return database.write(remove)


def _put(connection: Connection, table: sa.Table, row: Json, *, replace: bool) -> None:
    """Insert a row, or where its key is there already replace it or leave it."""
    kind: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    given = kind.insert(table).values(row)
    key = list(table.primary_key.columns)
    connection.execute(
        given.on_conflict_do_update(index_elements=key, set_=row)
        if replace
        else given.on_conflict_do_nothing(index_elements=key)
    )
