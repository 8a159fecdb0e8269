"""The commands for trying things out: run, status, up, worker."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.acceptance.conftest import KC_WORKER, KcWorker, clean_environment
from worker.local.celery_worker import LocalWorker
from worker.local.child import Child, free_port


@pytest.fixture
def served(shared_worker: LocalWorker, redis_url: str, llama_url: str) -> dict[str, str]:
    """Settings of a producer for the shared worker, which sees the same blobs."""
    blobs = str(shared_worker.directory / ".kc/blobs")
    return {"REDIS_URL": redis_url, "LLM_SERVER_URL": llama_url, "BLOB_DIR": blobs}


def test_help_lists_every_command_without_loading_any(kc_worker: KcWorker) -> None:
    answer = kc_worker("--help")
    assert answer.returncode == 0
    for command in (
        "demo",
        "up",
        "run",
        "status",
        "cancel",
        "dlq",
        "gateway",
        "batch",
        "blobs",
        "story",
        "database",
        "worker",
        "models",
    ):
        assert re.search(rf"^  {command} ", answer.stdout, re.MULTILINE)
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "worker", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert not re.search(r"\| +(celery|rich|httpx|pydantic)$", imported, re.MULTILINE)


def test_the_version_is_the_packages(kc_worker: KcWorker) -> None:
    from worker import __version__

    assert __version__ in kc_worker("--version").stdout


def test_an_unknown_command_or_option_is_status_2(kc_worker: KcWorker) -> None:
    assert kc_worker("dance").returncode == 2
    assert kc_worker("run", "llm.chat", "--colour", "red").returncode == 2


@pytest.mark.parametrize(
    "command",
    [["status"], ["run", "llm.chat", "--text", "x"], ["up"], ["worker"], ["cancel", "x"], ["dlq", "list"]],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_status_2(
    kc_worker: KcWorker, command: list[str]
) -> None:
    answer = kc_worker(*command, LLM_TIMEOUT="-3")
    assert answer.returncode == 2
    assert answer.stderr.startswith("kc-worker: LLM_TIMEOUT: ")
    assert answer.stderr.count("\n") == 1


def test_without_redis_run_says_so_and_how_to_start_one(kc_worker: KcWorker) -> None:
    answer = kc_worker("run", "llm.chat", "--text", "x", REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    assert answer.returncode == 1
    assert "kc-worker up" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_run_answers_a_question_as_text(kc_worker: KcWorker, served: dict[str, str]) -> None:
    answer = kc_worker("run", "llm.chat", "--text", "Say hello.", "--arg", "max_tokens=8", **served)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()
    assert not answer.stdout.startswith("{")


def test_run_prints_the_whole_result_as_json(kc_worker: KcWorker, served: dict[str, str]) -> None:
    messages = json.dumps([{"role": "user", "content": "Say hello."}])
    answer = kc_worker("run", "llm.chat", "--messages", messages, "--arg", "max_tokens=8", "--json", **served)
    result = json.loads(answer.stdout)
    assert result["object"] == "chat.completion"
    assert result["meta"]["timings"]["queue_s"] >= 0


def test_run_shows_an_answer_while_it_is_generated(kc_worker: KcWorker, served: dict[str, str]) -> None:
    ask = ("run", "llm.chat", "--text", "Count to ten.", "--arg", "max_tokens=12", "--arg", "temperature=0")
    streamed, whole = kc_worker(*ask, "--stream", **served), kc_worker(*ask, **served)
    assert streamed.returncode == 0, streamed.stderr
    assert streamed.stdout.strip() == whole.stdout.strip()
    failed = kc_worker("run", "llm.chat", "--messages", "[]", "--stream", **served)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "InvalidTask: `messages`" in failed.stderr


def test_run_reads_text_and_schema_from_files(
    kc_worker: KcWorker, served: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("Anna is 31 years old.")
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    files = ("--text-file", "letter.txt", "--schema", "@schema.json")
    answer = kc_worker("run", "llm.extract", *files, "--arg", "max_tokens=40", "--json", **served)
    assert answer.returncode == 0, answer.stderr
    assert isinstance(json.loads(answer.stdout)["data"]["age"], int)


def test_a_file_that_does_not_exist_is_named(kc_worker: KcWorker) -> None:
    answer = kc_worker("run", "text.summarize", "--text-file", "nowhere.txt")
    assert answer.returncode == 2
    assert "nowhere.txt cannot be read" in answer.stderr


def test_a_misspelt_argument_fails_with_the_workers_words(
    kc_worker: KcWorker, served: dict[str, str]
) -> None:
    answer = kc_worker("run", "llm.chat", "--text", "x", "--arg", "max_token=5", **served)
    assert answer.returncode == 1
    assert "InvalidTask: `max_token` is not a field of this task; did you mean `max_tokens`?" in answer.stderr


def test_a_text_too_long_for_a_message_goes_as_a_blob(kc_worker: KcWorker, served: dict[str, str]) -> None:
    # Refused by the worker only after it has read the blob: a schema that is none.
    text = "A fox walks over a hill. " * 20_000
    Path(served["BLOB_DIR"]).parent.mkdir(parents=True, exist_ok=True)
    file = Path(served["BLOB_DIR"]).parent / "long.txt"
    file.write_text(text)
    answer = kc_worker(
        "run", "llm.extract", "--text-file", str(file), "--schema", '{"type": "object"}', **served
    )
    assert f"The text has {len(text):,} bytes" in answer.stderr
    assert "ContextLengthExceeded" in answer.stderr


@pytest.mark.parametrize("more", [[], ["--stream"]])
def test_run_warns_when_no_worker_listens_and_interrupting_it_revokes_the_task(
    redis_url: str, tmp_path: Path, more: list[str]
) -> None:
    from worker.local.redis import LocalRedis

    with LocalRedis() as redis:
        redis.wait_ready()
        with subprocess.Popen(
            [*KC_WORKER, "run", "llm.chat", "--text", "x", *more],
            cwd=tmp_path,
            env=clean_environment(REDIS_URL=redis.url),
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert "No worker answers" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
        assert process.returncode == 130
        assert "Cancelled" in rest


def test_status_of_a_working_set_is_0_and_says_what_there_is(
    kc_worker: KcWorker, served: dict[str, str]
) -> None:
    answer = kc_worker("status", "--json", **served)
    found = json.loads(answer.stdout)
    assert answer.returncode == 0, found["problems"]
    assert found["redis"]["version"]
    delivery = found["redis"]["delivery"]
    assert {queue["name"] for queue in delivery["queues"]} == {"interactive", "default", "celery", "batch"}
    assert len(delivery["workers"]) == 1
    (server,) = found["servers"]
    assert server["state"] == "ready"
    assert server["capabilities"]["slots"] == 4
    assert server["capabilities"]["context_length"] == 2048
    words = kc_worker("status", **served).stdout
    assert "SmolLM2" in words
    assert "4 slots" in words


def test_status_with_everything_down_is_1_and_says_what_to_do(kc_worker: KcWorker) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    answer = kc_worker("status", REDIS_URL=f"redis://{nowhere}", LLM_SERVER_URL=f"http://{nowhere}")
    assert answer.returncode == 1
    assert "kc-worker up" in answer.stderr
    assert f"http://{nowhere} is down" in answer.stderr


def test_worker_is_celerys_own_and_passes_its_options_on(
    redis_url: str, llama_url: str, tmp_path: Path
) -> None:
    environment = clean_environment(REDIS_URL=redis_url, LLM_SERVER_URL=llama_url, WORKER_HEALTH_PORT="0")
    command = [*KC_WORKER, "worker", "-n", "named@here", "-Q", "nobody", "--without-mingle"]
    with Child("kc-worker", command, env=environment, directory=tmp_path) as child:
        child.wait_until(lambda: "named@here ready." in child.log(), timeout_s=60)


@pytest.fixture
def running_up(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """`kc-worker up` on free ports, and what it printed."""
    ports = [f"--port-{name}={free_port()}" for name in ("redis", "llm", "gateway")]
    command = [*KC_WORKER, "up", *ports, "--slots", "1", "--context", "512"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=clean_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        printed = ""
        assert process.stdout is not None
        while "Ctrl-C" not in printed:
            line = process.stdout.readline()
            assert line, "kc-worker up ended early"
            printed += line
        yield {"process": process, "printed": printed}
        process.send_signal(signal.SIGINT)
        process.wait(30)


def test_up_prints_settings_and_a_producer_that_work_and_ctrl_c_stops_it_all(
    running_up: dict[str, Any], kc_worker: KcWorker
) -> None:
    import psutil

    printed = running_up["printed"]
    settings = dict(re.findall(r"^([A-Z_]+)=(.+)$", printed, re.MULTILINE))
    assert kc_worker("status", **settings).returncode == 0
    producer = printed[printed.index("from celery") : printed.index("# Anything that speaks")]
    answer = subprocess.run(
        [sys.executable, "-c", producer], capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()
    with openai.OpenAI(base_url=settings["OPENAI_BASE_URL"], api_key=settings["OPENAI_API_KEY"]) as client:
        chat = client.chat.completions.create(
            model=client.models.list().data[0].id,
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=8,
        )
    assert chat.choices[0].message.content
    process = running_up["process"]
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 4
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert not [child for child in children if child.is_running()]


def test_a_second_up_in_the_same_folder_is_refused(running_up: dict[str, Any], kc_worker: KcWorker) -> None:
    began = time.monotonic()
    answer = kc_worker("up")
    assert answer.returncode == 1
    assert "already runs" in answer.stderr
    assert time.monotonic() - began < 20
