"""`kc-worker diagram` as a person types it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from worker.local.celery_worker import LocalWorker
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted

STEPS = [{"number": 1, "action": "Open the mail", "role": "Clerk", "kind": "task", "next": []}]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run_it(*arguments: str, stdin: str | None = None, **env: str) -> "subprocess.CompletedProcess[str]":
        # A port where no Redis is: what needs one has to say so.
        settings = {"PATH": os.environ["PATH"], "REDIS_URL": "redis://127.0.0.1:1", **env}
        return subprocess.run(
            [sys.executable, "-m", "worker", "diagram", *arguments],
            cwd=tmp_path, env={**settings, "PYTHONPATH": str(Path(__file__).parents[2])}, input=stdin,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run_it


def test_text_diagrams_are_converted_without_a_worker(run: Run, tmp_path: Path) -> None:
    (tmp_path / "order.mmd").write_text("graph TD\nsubgraph Clerk\nA[Check]-->B{Good?}\nend\nB-->|no|A")
    shown = run("order.mmd")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [
        "| № | Action | Role |", "| --- | --- | --- |", "| 1 | Check | Clerk |", "| 2 | Good? (no → 1) | Clerk |",
    ]  # fmt: skip
    assert run("order.mmd", "--format", "bpmn", "-o", "order.bpmn").returncode == 0
    assert run("order.bpmn", "--format", "json", "-o", "order.json").returncode == 0
    again = run("order.json", "--format", "mermaid")
    assert run("-", stdin=again.stdout).stdout == shown.stdout
    both = run("order.mmd", "order.bpmn", "--format", "plantuml", "-o", "all")
    assert both.stderr.splitlines() == [
        "order.mmd: 2 steps: all/order.mmd.puml", "order.bpmn: 2 steps: all/order.bpmn.puml",
    ]  # fmt: skip
    assert (tmp_path / "all/order.mmd.puml").read_text() == (tmp_path / "all/order.bpmn.puml").read_text()


def test_what_is_wrong_is_said_and_the_rest_is_done(run: Run, tmp_path: Path) -> None:
    (tmp_path / "good.puml").write_text("@startuml\nstart\n:Check;\nstop\n@enduml")
    (tmp_path / "bad.puml").write_text("@startuml\nstart\nnonsense\n@enduml")
    (tmp_path / "empty.mmd").write_text("")
    ran = run("bad.puml", "good.puml", "missing.mmd", "empty.mmd")
    assert ran.returncode == 1
    assert "| 2 | Check |" in ran.stdout
    assert "bad.puml: bad.puml cannot be read as plantuml: line 3: expected" in ran.stderr
    assert "missing.mmd: It cannot be read: No such file or directory." in ran.stderr
    assert "empty.mmd: It is empty." in ran.stderr
    assert "Traceback" not in ran.stderr
    assert run().returncode == 2


def test_two_files_are_not_written_to_one(run: Run, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "o.mmd").write_text("graph TD\nA-->B")
    ran = run("a/o.mmd", "b/o.mmd", "-o", "out")
    assert ran.returncode == 2
    assert "a/o.mmd and b/o.mmd would both be written to out/o.mmd.md" in ran.stderr
    assert not (tmp_path / "out").exists()
    assert run("a/o.mmd", "b/o.mmd").returncode == 0


def test_a_picture_without_redis_is_an_error_in_words(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    ran = run("a.png")
    assert ran.returncode == 1
    assert "127.0.0.1:1" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.fixture
def served(tmp_path: Path) -> Iterator[dict[str, str]]:
    env = {"BLOB_DIR": str(tmp_path / "blobs"), "DATABASE_URL": f"sqlite:///{tmp_path}/kc.db"}
    with LocalScripted("vllm", vision=1, tokens=2000) as server, LocalRedis() as broker:
        server.wait_ready()
        broker.wait_ready()
        server.script({"fault": "content", "content": json.dumps({"steps": STEPS}), "times": -1})
        with LocalWorker(
            broker.url, server.url, backend="vllm", directory=tmp_path / "worker", env=env
        ) as worker:
            worker.wait_ready()
            yield {"REDIS_URL": broker.url, **env}


def test_pictures_go_through_the_queue(run: Run, served: dict[str, str], tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.webp")
    (tmp_path / "b.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "c.mmd").write_text("graph TD\nA-->B")
    ran = run("a.webp", "b.png", "c.mmd", "--format", "mermaid", "-o", "out", **served)
    assert ran.returncode == 1
    assert "b.png: InputUnavailable: " in ran.stderr
    assert 's1["Open the mail"]' in (tmp_path / "out/a.webp.mmd").read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.webp.mmd", "c.mmd.mmd"]
    wrong = run("a.webp", "--language", "Polish", **served)
    assert (wrong.returncode, "`language`" in wrong.stderr) == (1, True)
