"""A program started by this one: its log, its death noticed at once, its end made certain."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.errors import LocalError

HOST = "127.0.0.1"
_BOUND = Path(__file__).with_name("bound.py")
_POLL_S = 0.02
_LOG_TAIL_LINES = 25


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def preferred_port(port: int) -> int:
    """This port where it is free, else any free one."""
    try:
        return claim_port(port, "")
    except LocalError:
        return free_port()


def claim_port(port: int | None, option: str) -> int:
    """The port asked for, or a free one.

    Raises:
        LocalError: another program listens on the port asked for.
    """
    if port is None:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise LocalError(
                f"Port {port} cannot be used ({error.strerror}). Choose another with {option}."
            ) from None
    return port


class Child:
    """A running program.

    It must be started from a thread that lives as long as the program should (the main thread): Linux binds a
    child to the thread that made it. Waiting for it may happen anywhere.

    Args:
        name: what messages call it.
        command: program and arguments.
        directory: where its log (`<name>.log`) goes; None: a temporary folder that `stop` removes.
        env: its environment; None: this process's.
        in_own_directory: whether `directory` is its working directory too; else it shares this process's.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        directory: Path | None = None,
        env: Mapping[str, str] | None = None,
        in_own_directory: bool = False,
    ) -> None:
        self.name = name
        self._temporary = tempfile.TemporaryDirectory(prefix=f"kc-{name}-") if directory is None else None
        self.directory = Path(self._temporary.name) if self._temporary else Path(directory or ".")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log_path = self.directory / f"{name}.log"
        bound = [sys.executable, "-I", "-S", str(_BOUND), str(os.getpid()), *command]
        with self.log_path.open("wb") as log:
            # A session of its own: Ctrl-C reaches only this process, which then stops its children in order.
            self.process = subprocess.Popen(  # noqa: S603
                bound,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=None if env is None else dict(env),
                cwd=self.directory if in_own_directory else None,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of the program."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the program still runs."""
        return self.process.poll() is None

    def log(self) -> str:
        """All the program has written so far; "" once `stop` has removed the temporary folder."""
        try:
            return self.log_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def failure(self, what: str) -> LocalError:
        """The error for a program that does not do its work, with the end of its log."""
        tail = "\n".join(self.log().splitlines()[-_LOG_TAIL_LINES:])
        return LocalError(
            f"{self.name} {what}. The end of its log:\n{tail}" if tail else f"{self.name} {what}."
        )

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return when `ready()` is true.

        Raises:
            LocalError: the program ended, or was not ready in `timeout_s` seconds; with the end of its log.
        """
        give_up = time.monotonic() + timeout_s
        while not ready():
            if not self.alive:
                raise self.failure(f"ended with status {self.process.returncode} before it was ready")
            if time.monotonic() > give_up:
                raise self.failure(f"was not ready after {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def stop(self, grace_s: float = 5) -> None:
        """End the program and whatever it started: SIGTERM, then after `grace_s` seconds SIGKILL."""
        if self.alive:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
