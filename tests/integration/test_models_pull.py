"""`pull` against a Hub on this machine that misbehaves in the ways real networks do."""

import contextlib
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.models_hub import FakeHub, Repo, fake_hub
from tests.unit.models.writers import CHAT_METADATA, gguf, hf_files, write_folder
from worker.errors import ModelError
from worker.models.pull import FileNotNamed, Pulled, Source, pull

NAME = "org/tiny"
FILE = "tiny-Q4_K_M.gguf"
MODEL = gguf(rows=200_000)  # 3.2 MB
JOIN_S = 60


class Told:
    """A report that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.total = self.skipped = self.came = 0
        self.files: list[str] = []
        self.ended = False

    def say(self, text: str) -> None:
        self.said.append(text)

    def begin(self, total_bytes: int) -> None:
        self.total = total_bytes

    def file(self, name: str) -> None:
        self.files.append(name)

    def skip(self, count_bytes: int) -> None:
        self.skipped += count_bytes

    def advance(self, count_bytes: int) -> None:
        self.came += count_bytes

    def end(self) -> None:
        self.ended = True


@pytest.fixture(autouse=True)
def no_token_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as server:
        server.repos[NAME] = Repo({FILE: MODEL, "README.md": b"# tiny", ".gitattributes": b"*"})
        yield server


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def source(hub: FakeHub) -> Source:
    return Source(NAME, FILE, endpoint=hub.url, retry_delay_s=0.01)


def refused(source: Source, models_dir: Path, **kwargs: Any) -> str:
    with pytest.raises(ModelError) as caught:
        pull(source, models_dir, Told(), **kwargs)
    return str(caught.value)


def visible(models_dir: Path) -> set[str]:
    return {
        str(path.relative_to(models_dir))
        for path in models_dir.rglob("*")
        if path.is_file() and ".pull" not in path.parts
    }


def parts(models_dir: Path) -> list[Path]:
    return list(models_dir.rglob("*.part"))


# --- what comes ---


def test_a_named_file_arrives_verified_and_alone(hub: FakeHub, source: Source, models_dir: Path):
    told = Told()
    pulled = pull(source, models_dir, told)
    assert pulled.fetched
    assert pulled.path == models_dir / "gguf" / FILE
    assert pulled.path.read_bytes() == MODEL
    assert visible(models_dir) == {f"gguf/{FILE}"}
    assert (told.total, told.came, told.skipped, told.ended) == (len(MODEL), len(MODEL), 0, True)
    assert parts(models_dir) == []


def test_the_only_gguf_file_need_not_be_named(source: Source, models_dir: Path):
    assert pull(replace(source, file=""), models_dir, Told()).path.name == FILE


def test_several_gguf_files_are_listed_with_sizes(hub: FakeHub, source: Source, models_dir: Path):
    hub.repos[NAME].files |= {"tiny-Q8_0.gguf": gguf(), "mmproj.gguf": gguf()}
    with pytest.raises(FileNotNamed) as caught:
        pull(replace(source, file=""), models_dir, Told())
    assert "3.1 MiB  tiny-Q4_K_M.gguf" in str(caught.value)
    assert "tiny-Q8_0.gguf" in str(caught.value)


def test_all_parts_of_a_split_model_come_whichever_is_named(hub: FakeHub, source: Source, models_dir: Path):
    names = [f"q/big-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    hub.repos[NAME].files = {name: gguf(CHAT_METADATA, seed=at) for at, name in enumerate(names)}
    pulled = pull(replace(source, file=names[1]), models_dir, Told())
    assert pulled.path == models_dir / "gguf" / names[0]
    assert visible(models_dir) == {f"gguf/{name}" for name in names}
    assert not pull(replace(source, file=""), models_dir, Told()).fetched


def test_a_repository_without_gguf_comes_in_hugging_face_layout_without_duplicates(
    hub: FakeHub, source: Source, models_dir: Path
):
    wanted = hf_files(shards=3)
    hub.repos[NAME].files = {
        **wanted,
        "pytorch_model.bin": b"x" * 900,
        "original/consolidated.00.pth": b"x",
        "onnx/model.onnx": b"x",
        "consolidated.safetensors": b"x",
        ".gitattributes": b"x",
        "picture.png": b"x",
    }
    told = Told()
    pulled = pull(replace(source, file=""), models_dir, told)
    assert pulled.path == models_dir / "hf" / "org--tiny"
    assert visible(models_dir) == {f"hf/org--tiny/{name}" for name in wanted}
    assert all((pulled.path / name).read_bytes() == data for name, data in wanted.items())
    assert told.came == told.total == sum(map(len, wanted.values()))


def test_the_hugging_face_layout_can_be_asked_for_beside_gguf(hub: FakeHub, source: Source, models_dir: Path):
    hub.repos[NAME].files |= hf_files()
    pulled = pull(replace(source, file="", whole=True), models_dir, Told())
    assert f"hf/org--tiny/{FILE}" not in visible(models_dir)
    assert pulled.path.name == "org--tiny"


def test_only_pickled_weights_are_refused(hub: FakeHub, source: Source, models_dir: Path):
    hub.repos[NAME].files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    assert "only PyTorch ones" in refused(replace(source, file=""), models_dir)


def test_a_mirror_that_lists_names_only_is_asked_for_each_file(
    hub: FakeHub, source: Source, models_dir: Path
):
    hub.repos[NAME].lists_names_only = True
    pull(source, models_dir, Told())
    assert [seen.path for seen in hub.seen if seen.method == "HEAD"] == [
        f"/{NAME}/resolve/{hub.repos[NAME].commit}/{FILE}"
    ]
    hub.repos[NAME].tampered[FILE] = b"x" * len(MODEL)
    assert "arrived damaged" in refused(source, models_dir, force=True)


def test_a_hostile_file_name_leaves_the_models_folder_alone(hub: FakeHub, source: Source, models_dir: Path):
    hub.repos[NAME].files = hf_files() | {"../../escaped.json": b"{}"}
    assert "would leave the models folder" in refused(replace(source, file=""), models_dir)
    assert not models_dir.exists()


# --- again ---


def test_a_second_pull_needs_no_network(hub: FakeHub, source: Source, models_dir: Path):
    pull(source, models_dir, Told())
    hub.seen.clear()
    again = pull(source, models_dir, Told())
    assert (again.fetched, again.path) == (False, models_dir / "gguf" / FILE)
    assert hub.seen == []


def test_a_present_model_in_a_read_only_folder_is_enough(source: Source, models_dir: Path):
    pull(source, models_dir, Told())
    for folder in [path for path in models_dir.rglob("*") if path.is_dir()]:
        folder.chmod(0o555)
    assert not pull(source, models_dir, Told()).fetched


def test_a_touched_file_is_hashed_again_without_network(hub: FakeHub, source: Source, models_dir: Path):
    path = pull(source, models_dir, Told()).path
    hub.seen.clear()
    os.utime(path, (1, 1))
    assert not pull(source, models_dir, Told()).fetched
    assert hub.seen == []


def test_a_changed_file_is_replaced(source: Source, models_dir: Path):
    path = pull(source, models_dir, Told()).path
    path.write_bytes(MODEL[:-1] + b"!")
    told = Told()
    assert pull(source, models_dir, told).fetched
    assert path.read_bytes() == MODEL
    assert "is not what org/tiny has" in told.said[0]


def test_force_fetches_what_is_there(source: Source, models_dir: Path):
    pull(source, models_dir, Told())
    assert pull(source, models_dir, Told(), force=True).fetched


def test_a_copy_made_by_hand_is_recognised_and_not_fetched(hub: FakeHub, source: Source, models_dir: Path):
    write_folder(models_dir / "gguf", {FILE: MODEL})
    assert not pull(source, models_dir, Told()).fetched
    assert hub.transfers() == []


def test_a_good_model_from_elsewhere_is_not_overwritten_unasked(source: Source, models_dir: Path):
    other = gguf(seed=7)
    write_folder(models_dir / "gguf", {FILE: other})
    assert "replace it with --force" in refused(source, models_dir)
    assert (models_dir / "gguf" / FILE).read_bytes() == other
    assert pull(source, models_dir, Told(), force=True).fetched
    assert (models_dir / "gguf" / FILE).read_bytes() == MODEL


def test_a_broken_copy_from_elsewhere_is_replaced(source: Source, models_dir: Path):
    write_folder(models_dir / "gguf", {FILE: MODEL[:5000]})
    assert pull(source, models_dir, Told()).fetched


def test_a_new_revision_fetches_only_what_changed(hub: FakeHub, source: Source, models_dir: Path):
    repo = hub.repos[NAME]
    repo.files = hf_files(shards=2)
    folder = replace(source, file="")
    pull(folder, models_dir, Told())
    hub.seen.clear()
    repo.files["config.json"] = repo.files["config.json"].replace(b"2048", b"8192")
    repo.commit = "beef" * 10
    assert pull(replace(folder, revision=repo.commit), models_dir, Told()).fetched
    assert [seen.path.rsplit("/", 1)[1] for seen in hub.transfers()] == ["config.json"]
    assert b"8192" in (models_dir / "hf/org--tiny/config.json").read_bytes()


def test_a_file_in_hugging_faces_own_cache_is_taken_from_there(
    hub: FakeHub, source: Source, models_dir: Path, tmp_path: Path
):
    snapshot = tmp_path / "cache/hub/models--org--tiny/snapshots" / hub.repos[NAME].commit
    write_folder(snapshot, {FILE: MODEL})
    (tmp_path / "cache/hub/models--org--tiny/refs").mkdir()
    pull(replace(source, cache_dir=tmp_path / "cache"), models_dir, Told())
    assert (models_dir / "gguf" / FILE).read_bytes() == MODEL
    assert hub.transfers() == []


# --- offline ---


def test_offline_the_error_names_the_address_and_the_remedy(source: Source, models_dir: Path):
    message = refused(replace(source, endpoint="http://127.0.0.1:9"), models_dir)
    assert "http://127.0.0.1:9 cannot be reached" in message
    assert "HF_ENDPOINT" in message


def test_offline_a_good_file_put_there_by_hand_is_enough(source: Source, models_dir: Path):
    write_folder(models_dir / "gguf", {FILE: MODEL})
    pulled = pull(replace(source, endpoint="http://127.0.0.1:9"), models_dir, Told())
    assert (pulled.fetched, "cannot be reached" in pulled.note) == (False, True)


def test_offline_a_cut_off_file_is_not_enough(source: Source, models_dir: Path):
    write_folder(models_dir / "gguf", {FILE: MODEL[:-1]})
    assert "cannot be reached" in refused(replace(source, endpoint="http://127.0.0.1:9"), models_dir)


def test_offline_another_revision_than_asked_for_is_not_enough(source: Source, models_dir: Path):
    pull(source, models_dir, Told())
    elsewhere = replace(source, endpoint="http://127.0.0.1:9", revision="v2")
    assert "cannot be reached" in refused(elsewhere, models_dir)


# --- interruptions ---


def test_a_transfer_cut_off_again_and_again_goes_on_where_it_stopped(
    hub: FakeHub, source: Source, models_dir: Path
):
    hub.repos[NAME].cut_after = 1_000_000
    told = Told()
    pulled = pull(source, models_dir, told)
    assert pulled.path.read_bytes() == MODEL
    starts = [seen.range.split("=")[1].split("-")[0] for seen in hub.transfers() if seen.range]
    assert starts == ["1000000", "2000000", "3000000"]
    assert told.came == len(MODEL)


def test_given_up_after_several_tries_without_a_byte_what_came_is_kept(
    hub: FakeHub, source: Source, models_dir: Path
):
    repo = hub.repos[NAME]
    repo.cut_after = 0
    message = refused(source, models_dir)
    assert "the next pull goes on from 0 bytes" in message
    assert visible(models_dir) == set()
    assert len(hub.transfers()) == 6


def test_a_server_that_cannot_resume_is_started_over(hub: FakeHub, source: Source, models_dir: Path):
    repo = hub.repos[NAME]
    repo.ignores_ranges = True
    pull(source, models_dir, Told())
    part_of(hub, models_dir, MODEL[:1000])
    told = Told()
    pulled = pull(source, models_dir, told, force=True)
    assert pulled.path.read_bytes() == MODEL
    assert (told.skipped, told.came) == (0, len(MODEL))
    assert hub.transfers()[-1].range == f"bytes=1000-{len(MODEL) - 1}"


def part_of(hub: FakeHub, models_dir: Path, data: bytes) -> None:
    """The part file of an interrupted pull that got as far as `data`."""
    sha256 = hashlib.sha256(hub.repos[NAME].files[FILE]).hexdigest()
    part = models_dir / "gguf/.pull" / FILE / f"{FILE}.{sha256[:16]}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)


def test_a_busy_hub_is_asked_again(hub: FakeHub, source: Source, models_dir: Path):
    hub.repos[NAME].busy = 2
    assert pull(source, models_dir, Told()).fetched


def test_a_hub_that_stays_busy_is_given_up(hub: FakeHub, source: Source, models_dir: Path):
    hub.repos[NAME].busy = 1000
    assert "answers 503" in refused(source, models_dir)


# --- damage ---


def test_wrong_bytes_are_removed_and_never_get_the_final_name(hub: FakeHub, source: Source, models_dir: Path):
    hub.repos[NAME].tampered[FILE] = MODEL[:-1] + b"!"
    assert "arrived damaged and was removed" in refused(source, models_dir)
    assert visible(models_dir) == set()
    assert parts(models_dir) == []


def test_a_login_page_in_place_of_a_file_is_named(hub: FakeHub, source: Source, models_dir: Path):
    hub.repos[NAME].tampered[FILE] = (b"<!doctype html>" * 300_000)[: len(MODEL)]
    assert "web page (HTML)" in refused(source, models_dir)


def test_small_files_are_verified_too(hub: FakeHub, source: Source, models_dir: Path):
    repo = hub.repos[NAME]
    repo.files = hf_files()
    repo.tampered["tokenizer.json"] = repo.files["tokenizer.json"].replace(b"1", b"2")
    assert "tokenizer.json arrived damaged" in refused(replace(source, file=""), models_dir)
    assert not (models_dir / "hf/org--tiny").exists()


def test_a_damaged_beginning_from_before_is_found_out(hub: FakeHub, source: Source, models_dir: Path):
    part_of(hub, models_dir, b"?" * 5000)
    assert "arrived damaged" in refused(source, models_dir)
    assert pull(source, models_dir, Told()).fetched


def test_room_on_the_disk_is_checked_before_anything_is_fetched(
    hub: FakeHub, source: Source, models_dir: Path
):
    hub.repos[NAME].claimed_size[FILE] = 10**18
    assert "needs 909494.7 TiB more" in refused(source, models_dir)
    assert hub.transfers() == []


def test_a_disk_that_fills_up_on_the_way_is_named(
    source: Source, models_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "The disk is full" in refused(source, models_dir)
    assert visible(models_dir) == set()


def test_a_folder_that_cannot_be_written_is_named(source: Source, models_dir: Path):
    models_dir.write_text("a file where the folder belongs")
    assert "cannot be written" in refused(source, models_dir)


# --- refusals ---


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_names_the_token_and_the_licence(
    hub: FakeHub, source: Source, models_dir: Path, status: int
):
    hub.repos[NAME].gated = status
    message = refused(source, models_dir)
    assert f"accept its licence at {hub.url}/{NAME}" in message
    assert "HF_TOKEN" in message
    wrong = refused(replace(source, token="hf_other"), models_dir)
    assert "the account of HF_TOKEN has no access" in wrong


@pytest.mark.parametrize(
    ("status", "token", "words"),
    [
        (401, None, "set HF_TOKEN, and accept the licence"),
        (401, "hf_bad", "is mistyped, expired or revoked"),
        (403, "hf_bad", "a token that may read it"),
        (404, None, "has no repository"),
        (418, None, "answers 418"),
    ],
)
def test_a_refusal_without_a_reason_still_names_a_remedy(
    hub: FakeHub, source: Source, models_dir: Path, status: int, token: str | None, words: str
):
    hub.repos[NAME].gated, hub.repos[NAME].refusal = status, ""
    assert words in refused(replace(source, token=token), models_dir)


def test_the_token_opens_a_gated_model(hub: FakeHub, source: Source, models_dir: Path):
    hub.repos[NAME].gated = 401
    assert pull(replace(source, token="hf_good"), models_dir, Told()).fetched
    assert {seen.authorization for seen in hub.seen} == {"Bearer hf_good"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"repo": "org/absent"}, "There is no repository org/absent"),
        ({"repo": "not a name"}, "is not a repository name"),
        ({"file": "tiny-Q4_K_S.gguf"}, "Closest: tiny-Q4_K_M.gguf"),
        ({"file": "README.md"}, "is not a GGUF file"),
        ({"revision": "v9"}, "has no revision 'v9'"),
        ({"endpoint": "mirror.example"}, "is not an http:// or https:// URL"),
    ],
)
def test_what_is_not_there_is_said(source: Source, models_dir: Path, change: dict[str, str], words: str):
    assert words in refused(replace(source, **change), models_dir)


def test_an_address_that_is_no_hub_is_said(hub: FakeHub, source: Source, models_dir: Path):
    hub.repos[NAME].commit = ""
    assert "does not answer like the Hugging Face Hub" in refused(source, models_dir)


# --- side by side ---


def test_two_pulls_at_once_fetch_it_once(hub: FakeHub, source: Source, models_dir: Path):
    repo = hub.repos[NAME]
    repo.cut_after, repo.hold = 1000, threading.Event()
    outcomes: list[Pulled] = []
    told = [Told(), Told()]

    def run(report: Told) -> None:
        outcomes.append(pull(source, models_dir, report))

    first, second = (threading.Thread(target=run, args=(report,)) for report in told)
    first.start()
    assert hub.sent.acquire(timeout=JOIN_S)
    second.start()
    wait_for(lambda: bool(told[1].said))
    repo.hold.set()
    first.join(JOIN_S)
    second.join(JOIN_S)
    assert sorted(outcome.fetched for outcome in outcomes) == [False, True]
    assert len(hub.transfers()) == 1
    assert "Another process is pulling" in told[1].said[0]


def wait_for(condition: Any, timeout_s: float = JOIN_S) -> None:
    waiting = threading.Event()
    for _ in range(int(timeout_s / 0.02)):
        if condition():
            return
        waiting.wait(0.02)
    raise AssertionError("it did not happen in time")


# --- the command ---


class Cli:
    """`kc-worker models …` in a process of its own."""

    def __init__(self, hub: FakeHub, folder: Path) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "HF_HOME": str(folder / "hf-home"),
            "HF_CACHE_DIR": str(folder / "hf-home"),
            "HF_ENDPOINT": hub.url,
            "MODELS_DIR": str(folder / "models"),
            "COLUMNS": "200",
        }
        self._folder = folder

    def start(self, *args: str, stderr: int = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "worker", "models", *args],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=self._folder,
            env=self.environment | environment,
        )

    def __call__(self, *args: str, **environment: str) -> tuple[int, str, str]:
        with self.start(*args, **environment) as process:
            out, err = process.communicate(timeout=JOIN_S)
        return process.returncode, out, err


@pytest.fixture
def cli(hub: FakeHub, tmp_path: Path) -> Cli:
    return Cli(hub, tmp_path)


def test_pull_list_and_check_work_from_the_command_line(hub: FakeHub, cli: Cli, models_dir: Path):
    status, out, err = cli("pull", NAME, FILE)
    assert (status, out) == (
        0,
        f"Fetched: {models_dir}/gguf/{FILE} (3.1 MiB), pulled from {NAME} at c0ffee000000.\n",
    )
    assert "3.1 MiB of 3.1 MiB (100 %)" in err
    assert cli("pull", NAME, FILE, HF_ENDPOINT="http://127.0.0.1:9")[:2] == (
        0,
        f"Present: {models_dir}/gguf/{FILE} (3.1 MiB), as pulled from {NAME} at c0ffee000000.\n",
    )
    status, out, _ = cli("list")
    assert status == 0
    assert out.splitlines()[1].split() == [FILE, "gguf", "3.1", "MiB", "Q4_K_M", "llama", "4096", "800", "K"]
    (row,) = json.loads(cli("list", "--json")[1])
    assert (row["name"], row["parameters"], row["problem"]) == (FILE, 800_000, None)
    assert cli("check")[:2] == (0, f"{models_dir}/gguf/{FILE}: ok\n")
    (checked,) = json.loads(cli("check", FILE, "--json")[1])
    assert checked["ok"] is True


def test_on_a_terminal_there_is_a_bar_with_bytes_rate_and_time_left(cli: Cli):
    ours, theirs = os.openpty()
    with cli.start("pull", NAME, FILE, stderr=theirs, TERM="xterm") as process:
        os.close(theirs)
        process.wait(JOIN_S)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while block := os.read(ours, 4096):
            shown += block
    os.close(ours)
    assert process.returncode == 0
    assert "3.1/3.1 MiB" in shown.decode()
    assert "B/s" in shown.decode()


def test_a_broken_model_makes_check_fail_in_words(cli: Cli, models_dir: Path):
    write_folder(models_dir / "gguf", {"cut.gguf": MODEL[:-1024], "page.gguf": b"<html>"})
    status, out, _ = cli("check")
    assert status == 1
    assert "problem: cut.gguf is truncated: 1.0 KiB of 3.1 MiB are missing" in out
    assert "problem: page.gguf is not a GGUF model: it is a web page" in out
    assert "unusable: truncated" in cli("list")[1]
    status, out, err = cli("check", "absent")
    assert (status, out) == (1, "")
    assert err.startswith("error: There is no model 'absent'.")


def test_a_refused_pull_says_why_and_exits_1(hub: FakeHub, cli: Cli):
    hub.repos[NAME].gated = 401
    status, out, err = cli("pull", NAME, FILE)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: org/tiny is gated: accept its licence")
    assert cli("pull", NAME, FILE, HF_TOKEN="hf_good")[0] == 0


def test_a_repository_of_several_models_exits_2_with_the_list(hub: FakeHub, cli: Cli):
    hub.repos[NAME].files["tiny-Q8_0.gguf"] = gguf()
    status, _, err = cli("pull", NAME)
    assert status == 2
    assert err.startswith("error: org/tiny has 2 GGUF models. Name one as FILE:\n")
    assert "tiny-Q8_0.gguf" in err


def test_nothing_but_the_repository_is_asked_for(hub: FakeHub, cli: Cli):
    cli("pull", NAME, FILE)
    assert all(NAME in seen.path for seen in hub.seen)


def test_a_killed_pull_leaves_no_model_and_the_next_goes_on(hub: FakeHub, cli: Cli, models_dir: Path):
    repo = hub.repos[NAME]
    repo.cut_after, repo.hold = 2_500_000, threading.Event()
    process = cli.start("pull", NAME, FILE)
    try:
        assert hub.sent.acquire(timeout=JOIN_S)
        wait_for(lambda: any(part.stat().st_size >= 1_000_000 for part in parts(models_dir)))
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=JOIN_S)
    assert visible(models_dir) == set()
    repo.hold.set()
    repo.cut_after = repo.hold = None
    (part,) = parts(models_dir)
    there = part.stat().st_size
    status, out, _ = cli("pull", NAME, FILE)
    assert (status, out.split(":")[0]) == (0, "Fetched")
    assert (models_dir / "gguf" / FILE).read_bytes() == MODEL
    assert hub.transfers()[-1].range == f"bytes={there}-{len(MODEL) - 1}"
