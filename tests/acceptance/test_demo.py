"""`kc-worker demo`: the tour answers, adds up, and leaves nothing running."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from worker.contracts import CONTRACTS
from worker.local.exhibits import PAGE
from worker.local.tour import stops
from worker.storage.blobs import Blobs

DEMO = [sys.executable, "-m", "worker", "demo"]
#: Settings of somebody else's servers, which the demo must not use.
FOREIGN = {"REDIS_URL": "redis://127.0.0.1:1/0", "LLM_SERVER_URL": "http://127.0.0.1:1", "LLM_MODEL": "none"}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `kc-worker demo --json` prints."""
    answer = subprocess.run(
        [*DEMO, "--json"],
        cwd=tmp_path_factory.mktemp("demo"),
        env=os.environ | FOREIGN,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    return [json.loads(line) for line in answer.stdout.splitlines()]


def test_every_task_is_shown_at_least_once(told: list[dict[str, Any]], tmp_path: Path) -> None:
    assert {record["task"] for record in told} == set(CONTRACTS)
    assert len(told) == sum(len(stop.tasks) for stop in stops(Blobs(str(tmp_path))))


def test_a_scanned_page_is_read_and_a_flowchart_is_understood(told: list[dict[str, Any]]) -> None:
    outputs = {record["task"]: record["output"] for record in told}
    for line in filter(None, PAGE):
        assert line in outputs["document.ocr"]["markdown"]
    steps = outputs["diagram.describe"]["steps"]
    assert ("Pack the parcel", "Warehouse") in [(step["action"], step["role"]) for step in steps]


def test_a_story_goes_on(told: list[dict[str, Any]]) -> None:
    turns = [record for record in told if record["task"] == "story.continue"]
    assert [record["output"]["turn"] for record in turns] == [1, 2]
    assert turns[1]["prompt_tokens"] > turns[0]["prompt_tokens"] + 32  # it is told what was said


def test_a_picture_is_skipped_with_a_sentence_where_the_model_cannot_see(told: list[dict[str, Any]]) -> None:
    skipped = {record["task"]: record["skipped"] for record in told if record["skipped"]}
    assert skipped.keys() == {"image.analyze"}
    assert "cannot see pictures" in skipped["image.analyze"]


def test_every_task_tells_input_output_tokens_and_times(told: list[dict[str, Any]]) -> None:
    for record in told:
        assert record["input"]
        assert record["wall_s"] > 0
        if record["skipped"]:
            continue
        assert record["output"]
        if record["task"] in {"document.ocr", "diagram.describe"}:  # which need no language model here
            continue
        assert record["prompt_tokens"] > 0
        assert record["tokens_per_s"] > 0
        assert record["model"].startswith("SmolLM2")
        if record["task"] != "llm.embed":
            assert record["completion_tokens"] > 0
            assert record["ttft_s"] > 0


def test_the_long_text_took_more_than_one_model_call_and_tokens_than_one_context(
    told: list[dict[str, Any]],
) -> None:
    assert told[-1]["task"] == "text.summarize"
    assert told[-1]["prompt_tokens"] > 1024
    assert told[-1]["output"]["summary"]


def test_an_interrupted_demo_leaves_nothing_running(tmp_path: Path) -> None:
    with subprocess.Popen(DEMO, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert b"Ready" in process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert not [child for child in children if child.is_running()]


def test_a_demo_killed_with_9_takes_its_programs_with_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        DEMO,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},  # nobody is left to remove temporary folders
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert b"Ready" in process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    assert len(gone) + len(alive) >= 3


def test_a_demo_whose_worker_dies_ends_at_once_with_its_log(tmp_path: Path) -> None:
    with subprocess.Popen(
        DEMO, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "Ready" in process.stdout.readline()
        for child in psutil.Process(process.pid).children():
            if "celery" in child.cmdline():
                child.kill()
        began = time.monotonic()
        assert process.wait(30) == 1
        assert time.monotonic() - began < 15
        assert "worker ended with status -9" in process.stderr.read()
