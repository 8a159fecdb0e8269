"""`kc-worker batch run` as a person types it."""

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import KC_WORKER, KcWorker, clean_environment
from worker.local.celery_worker import LocalWorker
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted


@pytest.fixture(scope="module")
def scripted() -> Iterator[LocalScripted]:
    with LocalScripted("vllm", latency_s=0.2, keep=100_000) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def served(
    broker: LocalRedis, scripted: LocalScripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The settings for a Redis with a worker behind a scripted server."""
    folder = tmp_path_factory.mktemp("worker")
    with LocalWorker(broker.url, scripted.url, backend="vllm", directory=folder) as worker:
        worker.wait_ready()
        yield {"REDIS_URL": broker.url}


def write(path: Path, count: int) -> None:
    with path.open("w") as file:
        for number in range(count):
            body = {"messages": [{"role": "user", "content": f"word {number}"}], "max_tokens": 9}
            line = {
                "custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body,
            }  # fmt: skip
            file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def chats(scripted: LocalScripted) -> list[str]:
    """What the model server was asked, in order."""
    asked = [one for one in scripted.seen()["requests"] if one["path"] == "/v1/chat/completions"]
    return [one["body"]["messages"][-1]["content"] for one in asked]


def test_a_file_of_lines_becomes_a_file_of_answers(
    kc_worker: KcWorker, served: dict[str, str], tmp_path: Path
) -> None:
    write(tmp_path / "in.jsonl", 300)
    ran = kc_worker("batch", "run", "in.jsonl", "-o", "out.jsonl", **served)
    assert ran.returncode == 0, ran.stderr
    assert "300 answers: out.jsonl" in ran.stderr
    assert "tokens in" in ran.stderr
    answers = {one["custom_id"]: one["response"]["body"] for one in read(tmp_path / "out.jsonl")}
    assert len(answers) == 300
    for number in range(300):
        assert answers[f"row-{number}"]["choices"][0]["message"]["content"] == f"word {number}"
    assert not (tmp_path / "out.errors.jsonl").exists()


def test_rows_with_a_template(kc_worker: KcWorker, served: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,title\na,Rivers\nb,Lakes\n")
    ran = kc_worker(
        "batch", "run", "rows.csv", "-o", "out.jsonl", "--prompt", "About {title}", "--id-column", "id",
        "--arg", "max_tokens=9", "--json", **served,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert {
        one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"]
        for one in read(tmp_path / "out.jsonl")
    } == {"a": "About Rivers", "b": "About Lakes"}
    said = json.loads(ran.stdout)
    assert (said["completed"], said["failed"], said["output_tokens"]) == (2, 0, 4)


def test_wrong_lines_are_named_and_nothing_is_sent(
    kc_worker: KcWorker, served: dict[str, str], scripted: LocalScripted, tmp_path: Path
) -> None:
    write(tmp_path / "in.jsonl", 2)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write(
            '{"custom_id": "row-0", "method": "POST", "url": "/v1/chat/completions", "body": {}}\nnope\n'
        )
    before = chats(scripted)
    for arguments in (("--check",), ()):
        ran = kc_worker("batch", "run", "in.jsonl", "-o", "out.jsonl", *arguments, **served)
        assert ran.returncode == 1
        assert "line 3: `custom_id` 'row-0' is that of line 1 too." in ran.stderr
        assert "line 4: The line is not a JSON object: it is not JSON" in ran.stderr
        assert "4 lines. 2 are wrong; nothing was sent." in ran.stderr
    assert chats(scripted) == before
    report = json.loads(
        kc_worker("batch", "run", "in.jsonl", "-o", "x", "--check", "--json", **served).stdout
    )
    assert [one["line"] for one in report["problems"]] == [3, 4]


def test_wrong_lines_can_be_left_to_the_errors(
    kc_worker: KcWorker, served: dict[str, str], tmp_path: Path
) -> None:
    write(tmp_path / "in.jsonl", 2)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write('nope\n{"custom_id": "z", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n')
    ran = kc_worker("batch", "run", "in.jsonl", "-o", "out.jsonl", "--skip-invalid", **served)
    assert ran.returncode == 1, ran.stderr
    assert len(read(tmp_path / "out.jsonl")) == 2
    assert [one["custom_id"] for one in read(tmp_path / "out.errors.jsonl")] == ["", "z"]


def test_ctrl_c_stops_it_and_resume_does_the_rest(
    kc_worker: KcWorker, served: dict[str, str], scripted: LocalScripted, tmp_path: Path
) -> None:
    before = len(chats(scripted))
    write(tmp_path / "in.jsonl", 3000)
    out = tmp_path / "out.jsonl"
    command = ["batch", "run", "in.jsonl", "-o", "out.jsonl"]
    process = subprocess.Popen(
        [*KC_WORKER, *command],
        cwd=tmp_path,
        env=clean_environment(**served),
        stderr=subprocess.PIPE,
        text=True,
    )
    give_up = time.monotonic() + 60
    while not out.exists() or out.read_bytes().count(b"\n") < 300:
        assert time.monotonic() < give_up
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "of 3,000 lines are done" in said
    assert "--resume" in said
    done = {one["custom_id"] for one in read(out)}
    assert 300 <= len(done) < 3000

    again = kc_worker(*command, **served)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    ran = kc_worker(*command, "--resume", **served)
    assert ran.returncode == 0, ran.stderr
    assert sorted(one["custom_id"] for one in read(out)) == sorted(f"row-{number}" for number in range(3000))
    asked = Counter(chats(scripted)[before:])
    assert not {f"row-{words.split()[1]}" for words, times in asked.items() if times > 1} & done
    assert "3,000 answers" in kc_worker(*command, "--resume", **served).stderr, "and once more: nothing to do"


def test_what_does_not_belong_together_is_refused(
    kc_worker: KcWorker, served: dict[str, str], tmp_path: Path
) -> None:
    write(tmp_path / "in.jsonl", 2)
    assert (
        "nothing to resume" in kc_worker("batch", "run", "in.jsonl", "-o", "o", "--resume", **served).stderr
    )
    assert kc_worker("batch", "run", "in.jsonl", "-o", "o", **served).returncode == 0
    write(tmp_path / "in.jsonl", 3)
    assert (
        "is not what it was" in kc_worker("batch", "run", "in.jsonl", "-o", "o", "--resume", **served).stderr
    )
    assert kc_worker("batch", "run", "in.jsonl", "-o", "o", "--overwrite", **served).returncode == 0
    assert len(read(tmp_path / "o")) == 3
    other = kc_worker("batch", "run", "in.jsonl", "-o", "o", "--resume", "--prompt", "{x}", **served)
    assert "another template" in other.stderr
    (tmp_path / "o").write_text('{"precious": 1}\n')
    foreign = kc_worker("batch", "run", "in.jsonl", "-o", "o", "--resume", **served)
    assert "o has a line that is not of this batch" in foreign.stderr
    assert (tmp_path / "o").read_text() == '{"precious": 1}\n'


def test_answers_that_somebody_removed_are_asked_for_again(
    kc_worker: KcWorker, served: dict[str, str], tmp_path: Path
) -> None:
    write(tmp_path / "in.jsonl", 20)
    out = tmp_path / "out.jsonl"
    command = ["batch", "run", "in.jsonl", "-o", "out.jsonl"]
    assert kc_worker(*command, **served).returncode == 0
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:12]) + '{"id": "batch_req_')
    ran = kc_worker(*command, "--resume", **served)
    assert ran.returncode == 0, ran.stderr
    assert sorted(one["custom_id"] for one in read(out)) == sorted(f"row-{number}" for number in range(20))


@pytest.mark.parametrize(
    "more", [["-o", "in.jsonl"], ["-o", "out", "--errors", "in.jsonl"], ["-o", "o", "--errors", "o"]]
)
def test_no_file_is_destroyed(kc_worker: KcWorker, tmp_path: Path, more: list[str]) -> None:
    write(tmp_path / "in.jsonl", 2)
    before = (tmp_path / "in.jsonl").read_text()
    ran = kc_worker("batch", "run", "in.jsonl", *more, "--overwrite")
    assert ran.returncode == 1
    assert "are the same file" in ran.stderr
    assert (tmp_path / "in.jsonl").read_text() == before
    (tmp_path / "err").write_text("precious\n")
    assert kc_worker("batch", "run", "in.jsonl", "-o", "x", "--errors", "err").returncode == 2
    assert (tmp_path / "err").read_text() == "precious\n"


def test_a_row_that_cannot_be_read_is_an_error_of_its_own(
    kc_worker: KcWorker, served: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text('id,text\n1,hello\n2,"open\n')
    command = ["batch", "run", "rows.csv", "-o", "out.jsonl", "--prompt", "{text}"]
    assert kc_worker(*command, **served).returncode == 1
    ran = kc_worker(*command, "--skip-invalid", **served)
    assert ran.returncode == 1, ran.stderr
    assert len(read(tmp_path / "out.jsonl")) == 1
    (failed,) = read(tmp_path / "out.errors.jsonl")
    assert "cannot be read on" in failed["response"]["body"]["error"]["message"]


def test_without_redis_it_says_so(kc_worker: KcWorker, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", 2)
    ran = kc_worker("batch", "run", "in.jsonl", "-o", "out.jsonl", REDIS_URL="redis://127.0.0.1:1/0")
    assert ran.returncode == 1
    assert "Redis at redis://127.0.0.1:1/0" in ran.stderr
