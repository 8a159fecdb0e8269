"""What is read of a file of lines, and what is said of what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.batch.checking import MOST_TOLD, check
from worker.batch.lines import JsonLines, Line, Problem

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def line(custom_id: Any = "a", **different: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": CHAT, **different,
    }  # fmt: skip


def written(folder: Path, *lines: Any) -> JsonLines:
    path = folder / "in.jsonl"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return JsonLines(path)


def test_lines_have_the_numbers_an_editor_shows(tmp_path: Path) -> None:
    found = list(written(tmp_path, line("a"), "", "   ", line("b")).lines())
    assert [(one.number, one.custom_id) for one in found] == [(1, "a"), (4, "b")]


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_any_line_ending_and_a_byte_order_mark(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (json.dumps(line()) + ending).encode())
    assert [one.custom_id for one in JsonLines(path).lines()] == ["a"]


@pytest.mark.parametrize(
    ("wrong", "code", "param", "says"),
    [
        ("nope", "invalid_json_line", None, "not JSON"),
        ("[1]", "invalid_json_line", None, "JSON object"),
        ("[" * 100_000, "invalid_json_line", None, "nested too deeply"),
        (line(custom_id=7), "invalid_custom_id", "custom_id", "a string"),
        (line(custom_id=""), "invalid_custom_id", "custom_id", "1 to 512"),
        (line(custom_id="x" * 513), "invalid_custom_id", "custom_id", "1 to 512"),
        (line(custom_id="\ud800"), "invalid_custom_id", "custom_id", "surrogate"),
        ({"method": "POST"}, "invalid_custom_id", "custom_id", "has to be a string"),
        (line(method="GET"), "invalid_method", "method", "POST"),
        (line(url=None), "invalid_url", "url", "string"),
        (line(url="/v1/images"), "invalid_url", "url", "/v1/tasks/text.keywords"),
        (line(url="/v1/tasks/nope"), "invalid_url", "url", "/v1/embeddings"),
        (line(body=[]), "invalid_body", "body", "object"),
        (line(boby={}), "unknown_field", "boby", "custom_id, method, url, body"),
        (line(body={"messages": []}), "invalid_request", "body.messages", "at least 1"),
        (line(body={**CHAT, "temperature": 9}), "invalid_request", "body.temperature", "less than or equal to 5"),
        (line(body={**CHAT, "stream": True}), "invalid_request", "body.stream", "not for batches"),
        (line(body={**CHAT, "stream": "yes"}), "invalid_request", "body.stream", "true or false"),
        (
            line(url="/v1/tasks/text.keywords", body={"txt": "x"}),
            "invalid_request", "body.text", "missing",
        ),
        (
            line(url="/v1/embeddings", body={"input": "x", "encoding_format": "int8"}),
            "invalid_request", "body.encoding_format", "base64",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line_and_field(
    tmp_path: Path, wrong: Any, code: str, param: str | None, says: str
) -> None:
    report = check(written(tmp_path, line("ok"), wrong))
    assert (report.lines, report.wrong) == (2, 1)
    problem = report.problems[0]
    assert (problem.number, problem.code, problem.param) == (2, code, param)
    assert says in problem.told
    assert problem.told.startswith("line 2: ")


def test_a_custom_id_that_is_there_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    report = check(written(tmp_path, line("a"), line("b"), line("a")))
    assert [problem.told for problem in report.problems] == ["line 3: `custom_id` 'a' is that of line 1 too."]


def test_a_line_for_another_endpoint_is_refused_where_all_have_to_be_for_one(tmp_path: Path) -> None:
    source = JsonLines(written(tmp_path, line("a")).path, "/v1/embeddings")
    assert check(source).problems[0].code == "mismatched_url"


def test_a_line_that_is_too_long_is_not_read_and_the_next_one_is(tmp_path: Path) -> None:
    path = written(tmp_path, line("a" * 400), line("b")).path
    source = JsonLines(path, most_bytes=300)
    first, second = source.lines()
    assert isinstance(first, Problem)
    assert first.code == "line_too_long"
    assert second.custom_id == "b"


def test_too_many_lines_and_none_at_all(tmp_path: Path) -> None:
    report = check(written(tmp_path, *(line(str(n)) for n in range(11))), most_lines=10)
    assert report.problems[0].code == "too_many_lines"
    assert check(written(tmp_path, "")).problems[0].code == "empty_file"


def test_every_problem_is_counted_and_the_first_are_told(tmp_path: Path) -> None:
    report = check(written(tmp_path, *["nope"] * (MOST_TOLD + 20)))
    assert (report.wrong, len(report.problems)) == (MOST_TOLD + 20, MOST_TOLD)


@given(st.binary(max_size=300))
def test_no_bytes_are_too_strange(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "strange.jsonl"
    path.write_bytes(content)
    report = check(JsonLines(path, most_bytes=64), most_bytes=64)
    assert report.wrong >= 1
    assert all(problem.told for problem in report.problems)


def test_the_ids_of_tasks_follow_from_line_and_attempt() -> None:
    import uuid

    batch = uuid.uuid4()
    one = Line(7, "a", "/v1/chat/completions", CHAT)
    assert one.task_id(batch, 0) == one.task_id(batch, 0)
    other = Line(8, "b", "", {}).task_id(batch, 0)
    assert (
        len(
            {
                one.task_id(batch, 0),
                one.task_id(batch, 1),
                one.task_id(batch, 0, 1),
                one.task_id(batch, 0, 2),
                other,
            }
        )
        == 5
    )
