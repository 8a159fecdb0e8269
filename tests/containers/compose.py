"""The compose files as the real `docker compose config` merges them, and what the Dockerfiles say."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DOCKERFILES = ("Dockerfile.llamacpp", "Dockerfile.vllm", "Dockerfile.worker")
VARIANTS: dict[str, tuple[str, ...]] = {
    "base": (),
    "llamacpp": ("docker-compose.llamacpp.yml",),
    "llamacpp-gpu": ("docker-compose.llamacpp.yml", "docker-compose.llamacpp.gpu.yml"),
    "vllm": ("docker-compose.vllm.yml",),
    "vllm-gpu": ("docker-compose.vllm.yml", "docker-compose.vllm.gpu.yml"),
}
_CONFIG_TIMEOUT_S = 30


def run_config(folder: Path, *arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`docker compose … config` in `folder` with nothing of this process's environment but PATH and HOME."""
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder), **env}
    command = [str(BIN / "docker-compose"), *arguments]
    return subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, timeout=_CONFIG_TIMEOUT_S, check=False
    )


def merged(
    folder: Path, variant: str, *, ours: bool = False, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The merged configuration of a variant; the test fails with Compose's own words where there is none.

    With `ours`: worker, gateway and posters too.
    """
    arguments = [part for name in ("docker-compose.yml", *VARIANTS[variant]) for part in ("-f", name)]
    arguments += ["--profile", "worker", "--profile", "gateway", "--profile", "posters"] if ours else []
    done = run_config(folder, *arguments, "config", "--format", "json", env=env or {})
    if done.returncode or done.stderr.strip():
        pytest.fail(f"docker compose config for {variant}: {done.stderr}")
    config: dict[str, Any] = json.loads(done.stdout.replace("$$", "$"))  # Compose escapes what it prints
    return config


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile.

    Attributes:
        name: such as "COPY", in capitals.
        value: the rest, on one line.
        stage: name of the stage it is in; "" for an unnamed one.
    """

    name: str
    value: str
    stage: str


def instructions(dockerfile: str) -> list[Instruction]:
    """A Dockerfile's instructions in order, comments left out and lines joined."""
    lines = [
        line for line in (ROOT / dockerfile).read_text().splitlines() if not line.lstrip().startswith("#")
    ]
    found: list[Instruction] = []
    stage = ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        name, _, value = line.strip().partition(" ")
        if name.upper() == "FROM":
            words = value.split()
            stage = words[-1] if "AS" in words else ""
        found.append(Instruction(name.upper(), " ".join(value.split()), stage))
    return found


def last(dockerfile: str, stage: str, name: str) -> str:
    """The value of the last `name` instruction in a stage."""
    return [one.value for one in instructions(dockerfile) if (one.stage, one.name) == (stage, name)][-1]


def exec_form(value: str) -> list[str]:
    """The words of a CMD or HEALTHCHECK in exec form."""
    words: list[str] = json.loads(value[value.index("[") :])
    return words


def mapped(command: list[str], dockerfile: str, stage: str) -> list[str]:
    """The same command with files of the image replaced by those of the repository they were copied from."""
    places = {}
    for one in instructions(dockerfile):
        if (one.stage, one.name) == (stage, "COPY") and "--from" not in one.value:
            source, target = shlex.split(one.value)
            places[target] = str(ROOT / source)
    return [places.get(word, word) for word in command]
