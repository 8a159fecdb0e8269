"""A service of the compose files as plain processes on this machine."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.containers.compose import BIN, ROOT, exec_form, last, mapped, merged
from worker.local.child import HOST, Child, free_port

START_S = 60


class Container:
    """One service: its command, its healthcheck and its environment, on this machine.

    Args:
        command: what the container runs.
        check: its healthcheck.
        env: its environment; of this process's it has PATH alone.
        directory: its working directory and log.
    """

    def __init__(
        self, command: Sequence[str], check: Sequence[str], env: Mapping[str, str], directory: Path
    ) -> None:
        self._command, self.check = list(command), list(check)
        self.env = {"PATH": os.environ["PATH"], "HOME": str(directory), **env}
        self._directory = directory
        self._running: list[Child] = []

    def start(self) -> Child:
        child = Child(
            "container", self._command, directory=self._directory, env=self.env, in_own_directory=True
        )
        self._running.append(child)
        return child

    def healthy(self, check: Sequence[str] | None = None, **env: str) -> bool:
        """Run the healthcheck once."""
        done = subprocess.run(
            list(check or self.check), env=self.env | env, capture_output=True, timeout=20, check=False
        )
        return done.returncode == 0

    def kill(self) -> None:
        for child in self._running:
            child.stop()


def programs(directory: Path, **scripts: str | Path) -> str:
    """A PATH that begins with these programs: scripts by their text, or links to files."""
    folder = directory / "bin"
    folder.mkdir()
    for name, what in scripts.items():
        program = folder / name.replace("_", "-")
        if isinstance(what, Path):
            program.symlink_to(what)
        else:
            program.write_text(what)
            program.chmod(0o755)
    return f"{folder}:{BIN}:{os.environ['PATH']}"


def environment(service: dict[str, Any], **changed: str) -> dict[str, str]:
    """A service's environment as its container gets it: what is not set is not there."""
    return {name: value for name, value in (service["environment"] | changed).items() if value is not None}


def failure(command: Sequence[str], env: Mapping[str, str]) -> str:
    """What a command that must fail says."""
    clean = {"PATH": os.environ["PATH"], **env}
    done = subprocess.run(list(command), env=clean, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode not in {0, -6, -11}
    return done.stderr


def llm_container(
    directory: Path, dockerfile: str, stage: str, variant: str, interpreter: str = "", **env: str
) -> tuple[Container, str]:
    """The llm-server service of a variant with its image's own command, and its base URL."""
    service = merged(ROOT, variant)["services"]["llm-server"]
    port = str(free_port())
    command = mapped(exec_form(last(dockerfile, stage, "CMD")), dockerfile, stage)
    command = [interpreter if word == "python3" else word for word in command]
    kind, *check = service["healthcheck"]["test"]
    assert kind == "CMD"
    assert check == exec_form(last(dockerfile, stage, "HEALTHCHECK"))
    container = Container(
        command,
        mapped(check, dockerfile, stage),
        environment(service, HOST=HOST, PORT=port, **env),
        directory,
    )
    return container, f"http://{HOST}:{port}"


def ask(url: str, body: dict[str, Any] | None = None, key: str = "") -> Any:
    """The JSON a server answers."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, data, headers), timeout=120) as answer:
        return json.loads(answer.read() or "{}")


def chat(url: str, tokens: int = 8, key: str = "") -> Any:
    messages = [{"role": "user", "content": "Count from one to two hundred in words."}]
    return ask(f"{url}/v1/chat/completions", {"messages": messages, "max_tokens": tokens}, key)
