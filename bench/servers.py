"""Real model servers: llama.cpp from `.venv`, and those `make test-engines` installs under `.engines/`."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.provision import REPOSITORY
from worker.local.llamacpp import LocalLlama


@dataclass(frozen=True, slots=True)
class RealServer:
    """One program.

    Attributes:
        name: in tables.
        backend: LLM_BACKEND for it.
        in_flight: requests that keep it full.
    """

    name: str
    backend: str
    in_flight: int

    @property
    def missing(self) -> str:
        """Why it cannot be measured here; "" where it can."""
        if self.name == "llama.cpp" or (REPOSITORY / ".engines" / self.name / ".stamp").is_file():
            return ""
        return f"{self.name} is not installed: `make test-engines ARGS='--engine {self.name}'` installs it."

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its base URL, while it runs."""
        with tempfile.TemporaryDirectory() as folder, self._start(Path(folder)) as server:
            server.wait_ready()
            yield server.url

    def _start(self, folder: Path) -> Any:
        if self.name == "llama.cpp":
            return LocalLlama(slots=self.in_flight, context=512, embeddings=False, directory=folder)
        sys.path.insert(0, str(REPOSITORY / "tests" / "engines"))
        try:
            from engines import ENGINES  # type: ignore[import-not-found]
        finally:
            sys.path.pop(0)
        return ENGINES[self.name].start(folder)


LLAMA_CPP = RealServer("llama.cpp", "llamacpp", 8)
LLAMA_CPP_PYTHON = RealServer("llama-cpp-python", "llamacpp", 1)
VLLM = RealServer("vllm", "vllm", 32)


def chat(number: int, tokens: int = 32) -> dict[str, Any]:
    """A chat that is answered with so many tokens, the same each time it is asked."""
    text = f"Write a long story about the number {number}."
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0.0}
