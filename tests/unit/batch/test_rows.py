"""Rows and templates."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.batch.checking import check
from worker.batch.lines import Line, Problem
from worker.batch.rows import Rows, Template, check_template

ROWS = [
    {"id": "x1", "title": "Ląd", "body": "one, two"},
    {"id": "x2", "title": "Sea", "body": 'say "hi"\nagain'},
]


def as_csv(folder: Path, rows: list[dict[str, Any]] = ROWS, name: str = "rows.csv") -> Path:
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith("tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_parquet(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def as_jsonl(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_tsv(folder: Path) -> Path:
    return as_csv(folder, name="rows.tsv")


@pytest.mark.parametrize("write", [as_csv, as_tsv, as_parquet, as_jsonl])
def test_every_kind_of_file_gives_the_same_lines(tmp_path: Path, write: Any) -> None:
    template = Template(prompt="{title}: {body}", system="Be {{brief}}.", id_column="id")
    first, second = Rows(write(tmp_path), template).lines()
    assert isinstance(second, Line)
    assert (first.custom_id, second.custom_id) == ("x1", "x2")
    assert second.url == "/v1/chat/completions"
    assert second.body["messages"] == [
        {"role": "system", "content": "Be {brief}."},
        {"role": "user", "content": 'Sea: say "hi"\nagain'},
    ]


def test_arguments_of_any_task(tmp_path: Path) -> None:
    path = as_parquet(tmp_path, [{"text": "rivers", "most": 3}])
    template = Template(
        "text.keywords", arguments={"text": "{text}", "max_keywords": "{most}", "language": "en"}
    )
    (line,) = Rows(path, template).lines()
    assert isinstance(line, Line)
    assert (line.custom_id, line.url) == ("row-1", "/v1/tasks/text.keywords")
    assert line.body == {"text": "rivers", "max_keywords": 3, "language": "en"}
    assert check(Rows(path, template)).wrong == 0


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    report = check(Rows(as_csv(tmp_path), Template(prompt="{text}")))
    assert report.wrong == 2
    assert "no column `text`; there are: id, title, body" in report.problems[0].told


def test_an_empty_id_and_a_row_that_is_too_long_are_problems(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,text\n,a\nx,b,c\ny,d\n")
    found = list(Rows(path, Template(prompt="{text}", id_column="id")).lines())
    assert [one.code if isinstance(one, Problem) else one.custom_id for one in found] == [
        "invalid_custom_id", "invalid_row", "y",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b'id,text\n1,"open'), ("a.csv", b"id,text\n1,\xff\xfe"), ("a.parquet", b"PAR1 no")],
)
def test_a_broken_file_is_said_to_be(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    report = check(Rows(path, Template(prompt="{text}")))
    assert report.problems[0].code == "invalid_row"
    assert "cannot be read on" in report.problems[0].message


@pytest.mark.parametrize("text", ["{}", "{a!r}", "{a:>9}", "{a", "a}"])
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_template(text)


@given(st.text(), st.text())
def test_braces_that_are_doubled_are_text(before: str, value: str) -> None:
    escaped = before.replace("{", "{{").replace("}", "}}")
    line = Template(prompt=escaped + "{a}.").line(1, {"a": value})
    assert line.body["messages"][0]["content"] == f"{before}{value}."
