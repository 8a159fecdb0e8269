"""Redis and llama.cpp on this machine: started, waited for, stopped, never left behind."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from worker.errors import LocalError
from worker.local.child import Child
from worker.local.llamacpp import LocalLlama, bundled_model, find_model
from worker.local.redis import LocalRedis, find_redis


def eventually(condition: Callable[[], bool], within_s: float = 10) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "did not happen in time"
        time.sleep(0.02)


def client_of(server: LocalRedis) -> "redis.Redis":
    return redis.Redis(port=server.port)


def test_redis_answers_once_it_is_ready_and_is_gone_once_stopped() -> None:
    with LocalRedis() as server:
        server.wait_ready()
        with client_of(server) as client:
            assert client.ping()
        folder = server.directory
        assert folder.is_dir()
    assert not psutil.pid_exists(server.pid)
    assert not folder.exists()


def test_redis_without_persistence_writes_nothing(tmp_path: Path) -> None:
    with LocalRedis(directory=tmp_path) as server:
        server.wait_ready()
        with client_of(server) as client:
            client.set("a", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["redis.log"]


def test_redis_with_persistence_keeps_its_data_over_a_restart(tmp_path: Path) -> None:
    for expected in (None, b"1"):
        with LocalRedis(directory=tmp_path, persist=True) as server:
            server.wait_ready()
            with client_of(server) as client:
                assert client.get("a") == expected
                client.set("a", 1)


def test_the_redis_of_the_wheel_is_used_where_path_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert Path(find_redis()).parent == Path(sys.executable).parent


def test_a_valkey_on_path_is_taken_for_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    valkey = tmp_path / "valkey-server"
    valkey.write_text("#!/bin/sh\n")
    valkey.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis() == str(valkey)


def test_no_redis_anywhere_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(LocalError, match=r"apt-get install redis-server"):
        find_redis()


def test_a_taken_port_is_refused_with_the_option_that_changes_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LocalError, match=rf"Port {port} .*--port-redis"):
            LocalRedis(port=port)


def test_a_program_that_dies_is_noticed_at_once_and_shows_its_log() -> None:
    began = time.monotonic()
    with (
        Child("doomed", [sys.executable, "-c", "raise SystemExit('no such luck')"]) as child,
        pytest.raises(LocalError, match=r"(?s)doomed ended with status 1 .*no such luck"),
    ):
        child.wait_until(lambda: False, timeout_s=60)
    assert time.monotonic() - began < 10


def test_a_program_that_is_never_ready_is_given_up() -> None:
    with (
        Child("slow", ["sleep", "60"]) as child,
        pytest.raises(LocalError, match=r"slow was not ready after 0 s"),
    ):
        child.wait_until(lambda: False, timeout_s=0.1)


def test_a_program_that_ignores_sigterm_is_killed_with_its_own_children() -> None:
    script = "import signal,subprocess,time; signal.signal(15, signal.SIG_IGN);"
    script += "print(subprocess.Popen(['sleep','60']).pid, flush=True); time.sleep(60)"
    with Child("stubborn", [sys.executable, "-c", script]) as child:
        child.wait_until(lambda: child.log().strip().isdigit(), timeout_s=10)
        grandchild = int(child.log())
        child.stop(grace_s=0.1)
    assert child.process.returncode == -signal.SIGKILL
    eventually(lambda: not psutil.pid_exists(grandchild) or _zombie(grandchild))


def _zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds a child to its parent")
def test_killing_the_parent_with_9_leaves_nothing_running() -> None:
    script = textwrap.dedent("""
        import time
        from worker.local.redis import LocalRedis
        with LocalRedis() as server:
            server.wait_ready()
            print(server.pid, server.directory, flush=True)
            time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        assert psutil.pid_exists(int(pid))
        os.kill(parent.pid, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(int(pid)) or _zombie(int(pid)))
    for left in Path(folder).iterdir():
        left.unlink()
    Path(folder).rmdir()


def test_one_llama_server_chats_embeds_and_says_what_it_is(llama_url: str) -> None:
    with httpx.Client(base_url=llama_url, timeout=60) as server:
        question = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
        answer = server.post("/v1/chat/completions", json=question).json()
        assert answer["choices"][0]["message"]["content"].strip()
        vectors = server.post("/v1/embeddings", json={"input": ["a", "b"]}).json()["data"]
        assert [len(vector["embedding"]) for vector in vectors] == [576, 576]
        assert server.get("/v1/models").json()["data"][0]["id"] == "SmolLM2-135M-Instruct.Q4_1"
        assert "llamacpp:requests_processing" in server.get("/metrics").text


def test_the_context_is_meant_for_each_request(llama_url: str) -> None:
    props = httpx.get(f"{llama_url}/props").json()
    assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (4, 2048)


def test_an_embedding_input_may_be_longer_than_llama_cpps_default_batch(llama_url: str) -> None:
    request = {"input": "fox " * 700}
    answer = httpx.post(f"{llama_url}/v1/embeddings", json=request, timeout=120)
    assert answer.status_code == 200, answer.text


def test_a_file_that_is_no_model_ends_the_server_with_a_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    with (
        LocalLlama(model=broken) as server,
        pytest.raises(LocalError, match=r"(?s)llama\.cpp ended .*broken\.gguf"),
    ):
        server.wait_ready()


def test_a_model_is_found_by_path_or_by_its_name_in_the_models_folder(tmp_path: Path) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    model = folder / "tiny.gguf"
    model.write_bytes(b"GGUF")
    assert find_model(None, tmp_path) == bundled_model()
    assert find_model(str(model), Path("/nowhere")) == model
    assert find_model("tiny.gguf", tmp_path) == find_model("tiny", tmp_path) == model


def test_an_unknown_model_is_answered_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(LocalError, match=r"no model 'big'.*tiny\.gguf.*models pull"):
        find_model("big", tmp_path)
