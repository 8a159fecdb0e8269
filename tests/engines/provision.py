"""Install the engines that take minutes into `.engines/`, once: a stamp says with what they were installed.

Three things: llama-cpp-python (compiled), vLLM for CPUs (wheels), and SmolLM2 as Hugging Face files for vLLM.
Each step's output goes to `.engines/logs/`; the screen gets one line when it starts and one when it ends.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from worker.local.llamacpp import bundled_model

HERE = Path(__file__).resolve().parent
ENGINES = HERE.parents[1] / ".engines"
LLAMA_CPP_PYTHON = ENGINES / "llama-cpp-python"
VLLM = ENGINES / "vllm"
HF_COPY = ENGINES / "smollm2-hf"
VISION_COPY = ENGINES / "smollm2-vision-hf"

_LOG_TAIL_LINES = 15
_started_s = time.monotonic()


class NotProvisionedError(Exception):
    """An engine could not be installed; the message says why."""


class OutOfTimeError(NotProvisionedError):
    """The time budget ended first."""


def say(line: str) -> None:
    """One progress line, with the seconds since the start."""
    print(f"[{time.monotonic() - _started_s:6.0f} s] {line}", flush=True)


def python_of(folder: Path) -> Path:
    """The interpreter of an engine's environment."""
    return folder / "bin" / "python"


class Provisioner:
    """Runs installation steps, each bounded by one common deadline.

    Args:
        deadline_s: `time.monotonic()` at which to give up; None: never.
        stopped: set it to end a step in progress.
    """

    def __init__(self, deadline_s: float | None, stopped: threading.Event) -> None:
        self._deadline_s = deadline_s
        self._stopped = stopped
        self._locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)

    def llama_cpp_python(self) -> None:
        """llama-cpp-python's server, compiled here: 5 to 8 minutes on 2 cores.

        Raises:
            NotProvisionedError: it cannot be compiled.
        """
        locked = HERE / "llama-cpp-python.txt"

        def install() -> None:
            if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
                raise NotProvisionedError("no C++ compiler on PATH. On Debian or Ubuntu: apt-get install g++")
            self._venv(LLAMA_CPP_PYTHON)
            # In the background of whatever is being tested meanwhile.
            self._uv_install("compile", LLAMA_CPP_PYTHON, locked, niceness=15)

        self._once(LLAMA_CPP_PYTHON, [locked], install)

    def vllm(self) -> None:
        """vLLM's server for CPUs, from wheels: 2 to 4 minutes.

        Raises:
            NotProvisionedError: the wheels cannot be had for this machine.
        """
        locked = HERE / "vllm.txt"

        def install() -> None:
            self._venv(VLLM)
            # torch by pip, which honours the machine's own settings of where CPU builds come from.
            pip = [python_of(VLLM), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            self._run("vllm: torch", [*pip, "--constraint", locked, "torch"])
            # Without looking at requirements: torchvision, torchaudio and torchcodec would come as CUDA builds.
            self._uv_install("packages", VLLM, locked)

        self._once(VLLM, [locked], install)

    def hf_copy(self) -> None:
        """SmolLM2 as Hugging Face files, made from the bundled GGUF in vLLM's environment.

        Raises:
            NotProvisionedError: the conversion failed.
        """
        script, model = HERE / "make_hf_copy.py", bundled_model()

        def make() -> None:
            self._run("smollm2-hf: from GGUF", [python_of(VLLM), script, model, HF_COPY])

        self._once(HF_COPY, [script, HERE / "vllm.txt"], make)

    def vision_copy(self) -> None:
        """SmolLM2 that takes pictures, made from its Hugging Face files: what it says of them means nothing.

        Raises:
            NotProvisionedError: it cannot be made.
        """
        script = HERE / "make_vision_copy.py"

        def make() -> None:
            self._run("smollm2-vision-hf: a random eye", [python_of(VLLM), script, HF_COPY, VISION_COPY])

        self._once(VISION_COPY, [script, HERE / "make_hf_copy.py", HERE / "vllm.txt"], make)

    def _once(self, folder: Path, inputs: Sequence[Path], make: Callable[[], None]) -> None:
        """Make a folder anew unless its stamp says it was made with these inputs and this Python.

        Two engines may want the same one at once.
        """
        with self._locks[folder]:
            self._make(folder, inputs, make)

    def _make(self, folder: Path, inputs: Sequence[Path], make: Callable[[], None]) -> None:
        content = b"".join(path.read_bytes() for path in inputs) + sys.version.encode()
        wanted = hashlib.sha256(content).hexdigest()
        stamp = folder / ".stamp"
        if stamp.is_file() and stamp.read_text() == wanted:
            say(f"{folder.name}: already installed")
            return
        shutil.rmtree(folder, ignore_errors=True)
        make()
        stamp.write_text(wanted)

    def _venv(self, folder: Path) -> None:
        self._run(f"{folder.name}: environment", [sys.executable, "-m", "venv", folder])

    def _uv_install(self, what: str, folder: Path, locked: Path, niceness: int = 0) -> None:
        command = [sys.executable, "-m", "uv", "pip", "install", "--python", python_of(folder)]
        # The lists are whole environments: nothing is left to resolve.
        self._run(f"{folder.name}: {what}", [*command, "--no-deps", "-r", locked], niceness)

    def _run(self, what: str, command: Sequence[object], niceness: int = 0) -> None:
        say(f"{what} …")
        log = ENGINES / "logs" / f"{what.replace(': ', '-').replace(' ', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        began_s = time.monotonic()
        words = ["nice", "-n", str(niceness), *map(str, command)] if niceness else list(map(str, command))
        with log.open("wb") as output:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                start_new_session=True,
            )
            while process.poll() is None:
                if self._stopped.wait(0.2) or self._late:
                    os.killpg(process.pid, 9)
                    process.wait()
                    raise OutOfTimeError(f"`{what}` had not ended when the time was over")
        if process.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
            raise NotProvisionedError(f"`{what}` ended with status {process.returncode}:\n{tail}")
        say(f"{what}: done in {time.monotonic() - began_s:.0f} s")

    @property
    def _late(self) -> bool:
        return self._deadline_s is not None and time.monotonic() > self._deadline_s
