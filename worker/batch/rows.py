"""Rows of CSV, Parquet or JSONL as lines: a template says what is asked of each.

Template(task="llm.chat", texts={"prompt": "Summarise in one sentence: {body}"})
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

from worker.batch.lines import MOST_ID_CHARS, Line, Problem, numbered, object_in
from worker.contracts.base import Json
from worker.contracts.openai import CHAT_URL, EMBEDDINGS_URL, TASK_URL
from worker.errors import LocalError

Row = Mapping[str, Any]

#: Rows of a Parquet file in memory at once.
_PARQUET_ROWS = 256
_URLS = {"llm.chat": CHAT_URL, "llm.embed": EMBEDDINGS_URL}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
#: Files that are tables by their names; any other is JSONL.
TABLES = frozenset({*_DELIMITERS, ".parquet"})


@dataclass(frozen=True, slots=True)
class Template:
    """What is asked of a row. In its texts, `{column}` is what the row has there; `{{` is a brace.

    Attributes:
        task: who does it.
        prompt, system: messages of `llm.chat`; "" for none.
        arguments: further arguments; those that are strings are texts, and one that is nothing but `{column}`
            is what the row has there, number or text.
        id_column: where a row's `custom_id` is; "" for `row-1`, `row-2` …
    """

    task: str = "llm.chat"
    prompt: str = ""
    system: str = ""
    arguments: Json = field(default_factory=dict)
    id_column: str = ""

    def line(self, number: int, row: Row) -> Line:
        """What is asked of one row.

        Raises:
            Problem: the row has no such column.
        """
        custom_id = f"row-{number}"
        if self.id_column:
            custom_id = str(self._column(self.id_column, number, row) or "")
            if not 1 <= len(custom_id) <= MOST_ID_CHARS:
                raise Problem(
                    number,
                    "invalid_custom_id",
                    f"`{self.id_column}` has to have 1 to {MOST_ID_CHARS} characters.",
                    self.id_column,
                )
        body: Json = {name: self._filled(value, number, row) for name, value in self.arguments.items()}
        messages = [
            {"role": role, "content": str(self._filled(text, number, row))}
            for role, text in (("system", self.system), ("user", self.prompt))
            if text
        ]
        if messages:
            body["messages"] = messages
        size = sum(len(value) for value in row.values() if isinstance(value, str | bytes))
        return Line(number, custom_id, _URLS.get(self.task, TASK_URL + self.task), body, size)

    def _filled(self, value: Any, number: int, row: Row) -> Any:
        if not isinstance(value, str):
            return value
        parts = list(_parsed(value))
        if len(parts) == 1 and parts[0][0] == "" and parts[0][1] is not None:
            return self._column(parts[0][1], number, row)
        return "".join(
            text + ("" if name is None else _text(self._column(name, number, row))) for text, name in parts
        )

    def _column(self, name: str, number: int, row: Row) -> Any:
        if name not in row:
            known = ", ".join(str(one) for one in list(row)[:30])
            raise Problem(number, "unknown_column", f"There is no column `{name}`; there are: {known}.", name)
        return "" if row[name] is None else row[name]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a file, and what is asked of them.

    Attributes:
        path: .csv, .tsv or .parquet; anything else is JSONL.
        template: what is asked.
        most_bytes: of one row.
    """

    path: Path
    template: Template
    most_bytes: int = 256 * 1024

    def lines(self) -> Iterator[Line | Problem]:
        """A line a row."""
        for number, row in self._rows():
            try:
                yield row if isinstance(row, Problem) else self.template.line(number, row)
            except Problem as problem:
                yield problem

    def _rows(self) -> Iterator[tuple[int, Row | Problem]]:
        readers: dict[str, Callable[[], Iterator[tuple[int, Row | Problem]]]] = {
            ".csv": self._table, ".tsv": self._table, ".parquet": self._parquet,
        }  # fmt: skip
        return readers.get(self.path.suffix.lower(), self._objects)()

    def _table(self) -> Iterator[tuple[int, Row | Problem]]:
        csv.field_size_limit(self.most_bytes)
        number = 0
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, delimiter=_DELIMITERS[self.path.suffix.lower()], strict=True)
                for number, row in enumerate(reader, 1):
                    if None in row:
                        said = f"The row has more fields than the header ({len(reader.fieldnames or ())})."
                        yield number, Problem(number, "invalid_row", said)
                    else:
                        yield number, row
        except (csv.Error, UnicodeDecodeError) as error:
            said = f"The file cannot be read on: {error}."
            yield number + 1, Problem(number + 1, "invalid_row", said)

    def _parquet(self) -> Iterator[tuple[int, Row | Problem]]:
        try:
            from pyarrow import ArrowInvalid
            from pyarrow.parquet import ParquetFile
        except ImportError:
            raise LocalError("Parquet needs pyarrow: pip install 'kc-worker[parquet]'.") from None
        number = 0
        try:
            with ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except ArrowInvalid as error:
            said = f"The file cannot be read on: {error}."
            yield number + 1, Problem(number + 1, "invalid_row", said)

    def _objects(self) -> Iterator[tuple[int, Row | Problem]]:
        for number, raw in numbered(self.path, self.most_bytes):
            try:
                yield number, object_in(number, raw, self.most_bytes)
            except Problem as problem:
                yield number, problem


def check_template(text: str) -> None:
    """Refuse a text that is no template.

    Raises:
        ValueError: it says what is wrong.
    """
    list(_parsed(text))


def _parsed(text: str) -> Iterator[tuple[str, str | None]]:
    """Text, and the column that comes after it, None for none."""
    for literal, name, spec, conversion in Formatter().parse(text):
        if name == "":
            raise ValueError("{} names no column; write {column}, or {{}} for braces")
        if spec or conversion:
            raise ValueError(f"{{{name}…}}: only the name of a column may stand in braces")
        yield literal, name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
