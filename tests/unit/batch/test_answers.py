"""What is found in the files of answers after a crash is what is done."""

import errno
import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.batch.answers import Answer, Answers, ForeignFile
from worker.batch.lines import Line
from worker.delivery.states import Update

BATCH = uuid.UUID(int=7).hex


def answer(number: int, text: str = "hi") -> Answer:
    line = Line(number, f"row-{number}", "/v1/tasks/text.keywords", {})
    result = {"keywords": [text], "meta": {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}}
    return Answer.of_outcome(line, "task", Update("SUCCESS", result))


def failure(number: int) -> Answer:
    line = Line(number, f"row-{number}", "/v1/tasks/text.keywords", {})
    return Answer.of_outcome(line, "task", Update("FAILURE", error_type="OutputInvalid", error="No."))


def opened(folder: Path, batch: str = BATCH) -> Answers:
    return Answers(batch, folder / "out.jsonl", folder / "errors.jsonl")


def test_answers_and_errors_go_to_their_files(tmp_path: Path) -> None:
    with opened(tmp_path) as answers:
        answers.write([answer(1), failure(2), answer(1000)])
    assert (answers.completed, answers.failed, answers.usage.output_tokens) == (2, 1, 4)
    said = [json.loads(one) for one in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert said[0]["custom_id"] == "row-1"
    assert said[0]["response"]["status_code"] == 200
    assert said[0]["response"]["body"]["keywords"] == ["hi"]
    failed = json.loads((tmp_path / "errors.jsonl").read_text())
    assert failed["response"]["status_code"] == 502
    assert failed["response"]["body"]["error"]["code"] == "output_invalid"


def test_what_is_there_is_known_again_with_its_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as answers:
        answers.write([answer(1), failure(2), answer(17)])
    with opened(tmp_path) as again:
        assert [number for number in range(20) if number in again] == [1, 2, 17]
        assert (again.completed, again.failed, again.usage.input_tokens) == (2, 1, 6)
        again.write([answer(1), answer(3)])
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


@given(cut=st.integers(min_value=0), zeros=st.integers(0, 40))
def test_a_file_that_was_cut_off_anywhere_is_gone_on_with(
    tmp_path_factory: pytest.TempPathFactory, cut: int, zeros: int
) -> None:
    """Cut off, and with a tail of zeros, as file systems leave it after a power failure."""
    folder = tmp_path_factory.mktemp("cut")
    with opened(folder) as answers:
        answers.write([answer(number, "ż" * number) for number in range(1, 8)])
    path = folder / "out.jsonl"
    whole = path.read_bytes()
    kept = whole[: cut % (len(whole) + 1)]
    path.write_bytes(kept + b"\0" * zeros)
    with opened(folder) as again:
        assert again.completed == kept.count(b"\n")
        again.write([answer(number, "ż" * number) for number in range(1, 8)])
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"precious": true}\n')
    with pytest.raises(ForeignFile, match="precious"), opened(tmp_path):
        pass
    assert path.read_text() == '{"precious": true}\n'
    path.unlink()
    with opened(tmp_path) as answers:
        answers.write([answer(1)])
    with pytest.raises(ForeignFile), opened(tmp_path, uuid.UUID(int=8).hex):
        pass


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as answers:
        answers.write([answer(1)])
        before = (tmp_path / "out.jsonl").read_bytes()

        def full(_file: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="space"):
                answers.write([answer(2)])
        assert (tmp_path / "out.jsonl").read_bytes() == before
        assert 2 not in answers
        answers.write([answer(2)])
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_half_a_surrogate_pair_is_written_all_the_same(tmp_path: Path) -> None:
    with opened(tmp_path) as answers:
        answers.write([answer(1, "cut \ud83d")])
    said: Any = json.loads((tmp_path / "out.jsonl").read_text())
    assert said["response"]["body"]["keywords"] == ["cut \ud83d"]
