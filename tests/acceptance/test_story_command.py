"""`kc-worker story` and `kc-worker database` as a person types them, with a real worker and llama.cpp."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.conftest import KC_WORKER, KcWorker, Result, clean_environment
from worker.local.celery_worker import LocalWorker


@pytest.fixture
def served(shared_worker: LocalWorker, redis_url: str) -> dict[str, str]:
    """Settings of a person beside the shared worker: the same Redis, the same database."""
    return {"REDIS_URL": redis_url, "DATABASE_URL": f"sqlite:///{shared_worker.directory}/.kc/kc.db"}


@pytest.fixture
def session() -> str:
    return f"story-{uuid4().hex[:8]}"


def chat(session: str, lines: str, served: dict[str, str], folder: Path, *options: str) -> Result:
    return subprocess.run(
        [*KC_WORKER, "story", "chat", session, *options],
        input=lines, cwd=folder, env=clean_environment(**served), capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def exported(kc_worker: KcWorker, session: str, served: dict[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(kc_worker("story", "export", session, "-", **served).stdout)
    return document


def test_a_script_tells_a_story_and_everything_is_done_to_it(
    kc_worker: KcWorker, served: dict[str, str], session: str, tmp_path: Path
) -> None:
    lines = "Once there were two rivers.\n\n/set seed=7\n/rename The rivers\nWhat did they say?\n/export both.md\n"
    told = chat(session, lines, served, tmp_path, "--set", "max_tokens=24", "--system", "You tell tales.")
    assert (told.returncode, told.stderr) == (0, "")
    document = exported(kc_worker, session, served)
    assert (document["session_id"], document["name"], document["system"]) == (
        session, "The rivers", "You tell tales.",
    )  # fmt: skip
    said = [(one["turn"], one["role"]) for one in document["messages"]]
    assert said == [(1, "user"), (1, "assistant"), (2, "user"), (2, "assistant")]
    assert document["messages"][2]["content"] == "What did they say?"
    for one in document["messages"][1::2]:
        assert one["content"].strip() in told.stdout  # what was shown is what is remembered
    markdown = (tmp_path / "both.md").read_text()
    assert markdown.startswith("# The rivers\n\n> You tell tales.\n\n**User**")
    assert kc_worker("story", "show", session, **served).stdout == markdown
    assert re.search(
        rf"     2  {session}  The rivers$", kc_worker("story", "list", **served).stdout, re.MULTILINE
    )
    assert session not in kc_worker("story", "list", "--tenant", "other", **served).stdout

    assert kc_worker("story", "clear", session, **served).stdout == f"{session} is empty.\n"
    assert exported(kc_worker, session, served)["messages"] == []
    assert kc_worker("story", "delete", session, "--yes", **served).returncode == 0
    gone = kc_worker("story", "show", session, **served)
    assert (gone.returncode, gone.stderr) == (
        1, f"kc-worker: There is no story '{session}'. See them with `kc-worker story list`.\n",
    )  # fmt: skip


def test_wrong_lines_are_said_and_the_chat_goes_on_but_its_status_tells(
    served: dict[str, str], session: str, tmp_path: Path
) -> None:
    lines = "/dance\n/set temprature=1\n/set max_tokens=3\n/export\nHello.\n/quit\nNever said.\n"
    told = chat(session, lines, served, tmp_path, "--set", "max_tokens=16")
    assert told.returncode == 1
    assert [line.split(".")[0] for line in told.stderr.splitlines()] == [
        "/dance is no command",
        "`temprature` is not a field of this task; did you mean `temperature`?",
        "`max_tokens`: input should be greater than or equal to 16",
        "Which file?",
    ]
    assert told.stdout.strip()
    wrong = chat(session, "Hello.\n", served, tmp_path, "--set", "max_tokens=none")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("kc-worker: `max_tokens`: ")


def test_a_chat_history_of_another_program_goes_on(
    kc_worker: KcWorker, served: dict[str, str], session: str, tmp_path: Path
) -> None:
    history = [
        {"id": 1, "role": "user", "content": "My cat is named Filemon.", "date": "2024-05-01T10:00:00"},
        {"id": 2, "role": "assistant", "content": "A fine name.", "date": 1714557660},
    ]
    (tmp_path / "chat_history.json").write_text(json.dumps(history))
    arguments = ("story", "import", "chat_history.json", session)
    assert kc_worker(*arguments, **served).stdout == f"{session}: 1 turns.\n"
    again = kc_worker(*arguments, **served)
    assert (again.returncode, again.stderr) == (
        1, f"kc-worker: Story '{session}' has 1 turns already. Clear it, or use --replace.\n",
    )  # fmt: skip
    assert chat(session, "And then?\n", served, tmp_path, "--set", "max_tokens=16").returncode == 0
    said = exported(kc_worker, session, served)["messages"]
    assert [one["date"] for one in said[:2]] == ["2024-05-01T10:00:00+00:00", "2024-05-01T10:01:00+00:00"]
    assert [one["turn"] for one in said] == [1, 1, 2, 2]
    (tmp_path / "whole.json").write_text(kc_worker("story", "export", session, "-", **served).stdout)
    assert kc_worker("story", "import", "whole.json", f"{session}-2", **served).returncode == 0
    copied = exported(kc_worker, f"{session}-2", served)["messages"]
    assert [(one["turn"], one["role"], one["content"], one["date"]) for one in copied] == [
        (one["turn"], one["role"], one["content"], one["date"]) for one in said
    ]


class Terminal:
    """The chat in a terminal of its own."""

    def __init__(self, session: str, served: dict[str, str], folder: Path) -> None:
        self.shown = ""
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*KC_WORKER, "story", session, "--set", "max_tokens=900"],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder,
            env=clean_environment(**served, TERM="dumb"), start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, pattern: str, timeout_s: float = 60.0) -> str:
        """Wait until this is shown; returns what was, up to its end, and forgets it."""
        give_up = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.shown, re.DOTALL)):
            assert time.monotonic() < give_up, self.shown
            if select.select([self._ours], [], [], 0.2)[0]:
                self.shown += os.read(self._ours, 4096).decode(errors="replace")
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(served: dict[str, str], session: str, tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(session, served, tmp_path)
    yield opened
    opened.close()


def test_ctrl_c_ends_an_answer_and_then_the_chat(
    terminal: Terminal, kc_worker: KcWorker, served: dict[str, str], session: str
) -> None:
    terminal.until(rf"Story '{session}', 0 turns\. .*\n> ")
    terminal.type("Count from one to three hundred, slowly, one number a line.\n")
    terminal.until(r"lowly, one number a line\.\r\n.{3,}")  # it answers
    terminal.ctrl_c()
    terminal.until(r"\(Cancelled; this turn is forgotten\.\)\r\n> ")
    terminal.type("/set max_tokens=16\n")
    terminal.until(r"max_tokens=16\r\n> ")
    terminal.type("Say yes.\n")
    terminal.until(r"Say yes\.\r\n.+\n> ")
    terminal.type("half a line")
    terminal.until("half a line")
    # Python's readline misses a signal between showing its prompt and listening: whoever presses it presses again.
    for _ in range(20):
        terminal.ctrl_c()
        with contextlib.suppress(subprocess.TimeoutExpired):
            terminal.process.wait(2)
            break
    assert terminal.process.returncode == 0
    first, second = exported(kc_worker, session, served)["messages"]
    assert (first["content"], second["role"]) == ("Say yes.", "assistant")


def test_sigterm_ends_the_chat_and_cancels_what_it_asked(
    terminal: Terminal, kc_worker: KcWorker, served: dict[str, str], session: str
) -> None:
    terminal.until("\n> ")
    terminal.type("Count from one to three hundred, slowly, one number a line.\n")
    terminal.until(r"lowly, one number a line\.\r\n.{3,}")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(20) == 130
    assert kc_worker("story", "show", session, **served).returncode == 1


def test_the_database_is_backed_up_and_restored(
    kc_worker: KcWorker, served: dict[str, str], session: str, tmp_path: Path
) -> None:
    chat(session, "Hello.\n", served, tmp_path, "--set", "max_tokens=16")
    assert "revision 0" in kc_worker("database", "status", **served).stdout
    assert re.match(r"all\.gz: .*\d+ in message", kc_worker("database", "backup", "all.gz", **served).stdout)
    other = {**served, "DATABASE_URL": "sqlite:///other.db"}
    restored = kc_worker("database", "restore", "all.gz", **other)
    assert restored.returncode == 0, restored.stderr
    assert exported(kc_worker, session, other) == exported(kc_worker, session, served)
    again = kc_worker("database", "restore", "all.gz", **other)
    assert again.returncode == 1
    assert "--replace" in again.stderr
    assert kc_worker("database", "downgrade", "base", "--yes", **other).returncode == 0
    assert "no tables yet" in kc_worker("database", "status", **other).stdout
    assert kc_worker("database", "sweep", "--older-than", "30d", **other).stdout.startswith(
        "0 requests and 0 "
    )
    refused = kc_worker("database", "status", DATABASE_URL="mysql://localhost/x")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("kc-worker: DATABASE_URL: must start with sqlite:/// or postgresql://")
