"""The tables of stories and diagrams, as the newest migration leaves them.

story     one conversation of one owner
turn      what a task added to it; a task adds one turn, however often it is delivered
message   what was said in a turn, in order
waiting   who works on a story or waits for his turn, first come first served
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)

METADATA = MetaData()


class Moment(TypeDecorator[datetime]):
    """A time in UTC; SQLite, which knows no time zones, keeps it without."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """As it is stored."""
        return value and value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """As it is read."""
        if value is None:
            return None
        found: datetime = value
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _id(name: str) -> Column[int]:
    kind = BigInteger().with_variant(Integer, "sqlite")
    return Column(name, kind, primary_key=True, autoincrement=True)


#: `owner` is the tenant ("": nobody's); `session` is the name producers use; `system` the storyteller's
#: instructions; `layout` how the model is told it, "chat" or "plain" ("" before the first turn); `kept_from`
#: the first turn the model is still shown; `turns` the number of the last one.
STORY = Table(
    "story",
    METADATA,
    Column("owner", Text, primary_key=True),
    Column("session", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("system", Text, nullable=False),
    Column("system_tokens", Integer, nullable=False),
    Column("layout", Text, nullable=False),
    Column("kept_from", Integer, nullable=False),
    Column("turns", Integer, nullable=False),
    Column("created", Moment, nullable=False),
    Column("updated", Moment, nullable=False),
)

#: `task` is the Celery task's id, NULL where it was imported; `meta` says how the answer came to be.
TURN = Table(
    "turn",
    METADATA,
    Column("owner", Text, primary_key=True),
    Column("session", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("task", Text),
    Column("meta", JSON, nullable=False),
)

#: `turn` and `position` are its place in the story; `tokens` as the model server counts, 0 where unknown.
MESSAGE = Table(
    "message",
    METADATA,
    _id("id"),
    Column("owner", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("role", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("date", Moment, nullable=False),
)

#: `holder` is one run of the task; `running` whether it is his turn; `until` the Unix time at which he counts
#: as dead unless he renews it.
WAITING = Table(
    "waiting",
    METADATA,
    _id("place"),
    Column("owner", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("holder", Text, nullable=False),
    Column("running", Boolean, nullable=False),
    Column("until", Double, nullable=False),
)

#: One request to describe a diagram; `task` is the Celery task's id, `day` that of `date` in UTC, `outcome`
#: "success" or the error's type, `result` the key of DIAGRAM_RESULT ("" where there is none).
DIAGRAM_REQUEST = Table(
    "diagram_request",
    METADATA,
    Column("task", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("date", Moment, nullable=False),
    Column("day", Text, nullable=False),
    Column("file_name", Text, nullable=False),
    Column("file_type", Text, nullable=False),
    Column("file_hash", Text, nullable=False),
    Column("file_bytes", BigInteger, nullable=False),
    Column("model", Text, nullable=False),
    Column("adapter", Text, nullable=False),
    Column("prompt_version", Text, nullable=False),
    Column("cached", Boolean, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("result", Text, nullable=False),
)

#: The steps found in a diagram, by everything they depend on.
DIAGRAM_RESULT = Table(
    "diagram_result",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("steps", JSON, nullable=False),
    Column("meta", JSON, nullable=False),
    Column("date", Moment, nullable=False),
)
