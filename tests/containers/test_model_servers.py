"""What the model servers' containers run, started here as plain processes."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.containers.compose import ROOT
from tests.containers.processes import START_S, Container, ask, chat, failure, llm_container, programs
from worker.local.llamacpp import bundled_model

#: What the image has as `llama-server`: the same server as a library, started by the same variables.
_LLAMA_SERVER = """#!/bin/sh
[ -z "${LLAMA_ARG_EMBEDDINGS:-}" ] || embeddings=--embeddings
exec %(python)s -m worker.local.llamacpp_server --model "$LLAMA_ARG_MODEL" --name "$LLAMA_ARG_ALIAS" \\
    --host "$LLAMA_ARG_HOST" --port "$LLAMA_ARG_PORT" --slots "$LLAMA_ARG_N_PARALLEL" \\
    --context $((LLAMA_ARG_CTX_SIZE / LLAMA_ARG_N_PARALLEL)) ${embeddings:-}
"""
#: Stands for a server and says what it was started with.
_ECHO = """#!/bin/sh
for argument in "$@"; do echo "argument $argument"; done
env
"""


def test_llama_server_is_unhealthy_then_healthy_then_unhealthy(
    tmp_path: Path, containers: list[Container]
) -> None:
    path = programs(tmp_path, llama_server=_LLAMA_SERVER % {"python": sys.executable})
    container, url = llm_container(
        tmp_path, "Dockerfile.llamacpp", "llama-server", "llamacpp",
        PATH=path, PYTHONPATH=str(ROOT), MODEL_PATH=str(bundled_model()), N_CTX="512", N_PARALLEL="3",
    )  # fmt: skip
    containers.append(container)
    assert not container.healthy()
    server = container.start()
    server.wait_until(container.healthy, START_S)
    props = ask(f"{url}/props")
    assert props["total_slots"] == 3
    assert props["default_generation_settings"]["n_ctx"] == 512
    assert chat(url)["model"] == "SmolLM2-135M-Instruct.Q4_1"
    server.stop()
    assert not container.healthy()


def test_llama_server_gets_every_setting_in_its_own_words(tmp_path: Path) -> None:
    path = programs(tmp_path, llama_server=_ECHO)
    env = {"PATH": path, "MODEL_PATH": str(bundled_model()), "N_CTX": "1000", "N_PARALLEL": "3"}
    env |= {"N_GPU_LAYERS": "-1", "N_THREADS": "5", "PORT": "1234", "EMBEDDING": "true", "LLM_API_KEY": "k"}
    script = str(ROOT / "docker" / "llama-server.sh")
    said = subprocess.run([script, "--jinja"], env=env, capture_output=True, text=True, check=True).stdout
    got = dict(line.split("=", 1) for line in said.splitlines() if line.startswith("LLAMA_"))
    assert "argument --jinja" in said
    assert got["LLAMA_ARG_CTX_SIZE"] == "3000"
    assert got["LLAMA_ARG_N_PARALLEL"] == "3"
    assert got["LLAMA_ARG_N_GPU_LAYERS"] == "all"
    assert got["LLAMA_ARG_THREADS"] == "5"
    assert (got["LLAMA_ARG_HOST"], got["LLAMA_ARG_PORT"]) == ("0.0.0.0", "1234")
    assert (got["LLAMA_ARG_ENDPOINT_METRICS"], got["LLAMA_API_KEY"]) == ("1", "k")
    # llama.cpp aborts where the batch is not a multiple of the slots.
    assert (got["LLAMA_ARG_POOLING"], got["LLAMA_ARG_UBATCH"]) == ("mean", "1002")
    assert "LLAMA_ARG_MMPROJ" not in got


def test_a_projector_lets_llama_server_see(tmp_path: Path) -> None:
    projector = tmp_path / "mmproj.gguf"
    env = {
        "PATH": programs(tmp_path, llama_server=_ECHO),
        "MODEL_PATH": str(bundled_model()),
        "MMPROJ_PATH": str(projector),
    }
    script = str(ROOT / "docker" / "llama-server.sh")
    absent = subprocess.run([script], env=env, capture_output=True, text=True, check=False)
    assert (absent.returncode, "MMPROJ_PATH: there is no file" in absent.stderr) == (1, True)
    projector.write_bytes(b"GGUF")
    said = subprocess.run([script], env=env, capture_output=True, text=True, check=True).stdout
    assert f"LLAMA_ARG_MMPROJ={projector}" in said.splitlines()


def test_llama_cpp_python_says_that_it_takes_no_projector(tmp_path: Path) -> None:
    script = str(ROOT / "docker" / "llamacpp_python_server.py")
    env = {"MODEL_PATH": str(bundled_model()), "MMPROJ_PATH": "/models/mmproj.gguf"}
    ran = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=False)
    assert (ran.returncode, "LLAMACPP_SERVER=llama-server" in ran.stderr) == (1, True)


@pytest.mark.parametrize(
    "command",
    [
        [str(ROOT / "docker" / "llama-server.sh")],
        [sys.executable, str(ROOT / "docker" / "llamacpp_python_server.py")],
    ],
    ids=["llama-server", "llama-cpp-python"],
)
def test_what_is_wrong_with_the_model_file_is_said_in_one_line(command: list[str], tmp_path: Path) -> None:
    text = tmp_path / "model.gguf"
    text.write_text("<html>404</html>")
    for path, words in (
        (tmp_path / "absent.gguf", "there is no file"),
        (tmp_path, "is a folder"),
        (text, "is not a GGUF file"),
    ):
        said = failure(command, {"MODEL_PATH": str(path)})
        assert len(said.splitlines()) == 1
        assert "MODEL_PATH" in said
        assert words in said


@pytest.mark.parametrize(
    ("name", "value"), [("N_CTX", "4k"), ("N_PARALLEL", "0"), ("N_GPU_LAYERS", "-2"), ("EMBEDDING", "maybe")]
)
def test_a_wrong_setting_of_llama_server_is_named(name: str, value: str) -> None:
    said = failure(
        [str(ROOT / "docker" / "llama-server.sh")], {"MODEL_PATH": str(bundled_model()), name: value}
    )
    assert len(said.splitlines()) == 1
    assert name in said


def vllm_says(directory: Path, **env: str) -> str:
    path = programs(directory, vllm=_ECHO)
    script = str(ROOT / "docker" / "vllm.sh")
    clean = {"PATH": path, **env}
    return subprocess.run([script], env=clean, capture_output=True, text=True, check=True).stdout


def test_vllm_gets_the_model_first_and_every_setting_as_a_flag(tmp_path: Path) -> None:
    said = vllm_says(
        tmp_path, MODEL_NAME="org/name", TENSOR_PARALLEL_SIZE="2", VLLM_PORT="tcp://10.0.0.1:8000"
    )
    arguments = [line.removeprefix("argument ") for line in said.splitlines() if line.startswith("argument ")]
    assert arguments[:2] == ["serve", "org/name"]
    options = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    assert options == {
        "--served-model-name": "org/name",
        "--host": "0.0.0.0",
        "--port": "8000",
        "--tensor-parallel-size": "2",
        "--gpu-memory-utilization": "0.9",
        "--max-model-len": "4096",
    }
    assert "VLLM_PORT=" not in said


def test_vllm_names_a_model_folder_by_what_was_pulled(tmp_path: Path) -> None:
    folder = tmp_path / "hf" / "org--name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (tmp_path / "model").symlink_to("hf/org--name")
    assert "argument org--name\n" in vllm_says(tmp_path, MODEL_NAME=str(tmp_path / "model"))


def test_a_missing_model_folder_of_vllm_is_said_in_one_line(tmp_path: Path) -> None:
    script = [str(ROOT / "docker" / "vllm.sh")]
    for path, words in ((tmp_path / "absent", "there is no folder"), (tmp_path, "has no config.json")):
        said = failure(script, {"MODEL_NAME": str(path)})
        assert len(said.splitlines()) == 1
        assert words in said


def engine(name: str) -> str:
    """The interpreter of an engine that `make test-engines` installs."""
    python = ROOT / ".engines" / name / "bin" / "python"
    if not python.exists():
        pytest.fail(f"{python} is missing: `make test-engines` installs it")
    return str(python)


@pytest.mark.engines
def test_llama_cpp_python_is_unhealthy_then_healthy_while_it_generates_then_ends_cleanly(
    tmp_path: Path, containers: list[Container]
) -> None:
    container, url = llm_container(
        tmp_path, "Dockerfile.llamacpp", "llama-cpp-python", "llamacpp", engine("llama-cpp-python"),
        MODEL_PATH=str(bundled_model()), N_CTX="1024", EMBEDDING="true", LLM_API_KEY="k",
    )  # fmt: skip
    containers.append(container)
    assert not container.healthy()
    server = container.start()
    server.wait_until(container.healthy, START_S)
    expected = {"status": "ok", "n_ctx": 1024, "model": "SmolLM2-135M-Instruct.Q4_1"}
    assert ask(f"{url}/health") == expected
    assert isinstance(
        ask(f"{url}/v1/embeddings", {"input": "one two"}, "k")["data"][0]["embedding"][0], float
    )
    body = {
        "messages": [{"role": "user", "content": "Count to two hundred."}],
        "max_tokens": 400,
        "stream": True,
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer k"},
    )
    with urllib.request.urlopen(request, timeout=120) as stream:
        assert stream.readline().startswith(b"data:")
        assert container.healthy(), "the health page must not wait for a generation"
        assert stream.readline() is not None
    server.process.terminate()
    assert server.process.wait(30) == 0
    assert not container.healthy()


@pytest.mark.engines
def test_a_damaged_model_of_llama_cpp_python_is_said_in_one_line(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(bundled_model().read_bytes()[:100_000])
    command = [engine("llama-cpp-python"), str(ROOT / "docker" / "llamacpp_python_server.py")]
    said = failure(command, {"MODEL_PATH": str(damaged)})
    assert len(said.splitlines()) == 1
    assert "cannot load" in said


@pytest.mark.engines
@pytest.mark.timeout(400)
def test_vllm_is_unhealthy_then_healthy_then_unhealthy(tmp_path: Path, containers: list[Container]) -> None:
    container, url = llm_container(
        tmp_path, "Dockerfile.vllm", "", "vllm",
        VLLM_COMMAND=f"{engine('vllm')} -m vllm.entrypoints.openai.api_server --enforce-eager",
        MODEL_NAME=str(ROOT / ".engines" / "smollm2-hf"), MAX_MODEL_LEN="1024", HF_HUB_OFFLINE="1",
    )  # fmt: skip
    containers.append(container)
    assert not container.healthy()
    server = container.start()
    server.wait_until(container.healthy, 300)
    assert chat(url)["model"] == "smollm2-hf"
    server.stop(grace_s=30)
    assert not container.healthy()
