"""Processes that read pages: PDFium is not for threads and dies of some files, OCR takes a CPU for seconds.

What happens to one of them is what happens to the page it read; the worker does not notice otherwise.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from worker.documents.wire import Json, packed, receive, send
from worker.errors import InputTooLarge, InputUnavailable, InvalidTask

#: Errors a reader may name; it says nothing else that is raised here.
_ERRORS = {error.__name__: error for error in (InvalidTask, InputTooLarge, InputUnavailable)}
#: What of the environment a reader gets: it opens files of strangers and needs no passwords.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
#: What takes seconds.
_SLOW = {"scan", "warm"}
#: Processes for what takes no time: one page that takes long does not hold up all others.
_QUICK = 2
#: Requests after which a reader is replaced: what libraries leak is bounded.
_MOST_REQUESTS = 1000


class PageFailed(Exception):
    """A page was not read.

    Args:
        message: why.
        again: whether another try may go better.
    """

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message)
        self.again = again


class Readers:
    """Some processes, started when they are needed; use them on one event loop.

    Two open files, take what is written in them and make pictures of pages: that takes no time. Others do
    OCR, which takes seconds, so that no document that needs none waits for one that does.

    Args:
        processes: that do OCR, at most.
        threads: each of those may compute with.
        most_memory_bytes: of addresses each may use; one that wants more fails at its page.
        most_pages: that are read of one document.
    """

    def __init__(self, processes: int, threads: int, most_memory_bytes: int, most_pages: int = 500) -> None:
        self.processes, self.most_pages = processes, most_pages
        arguments = (str(threads), str(most_memory_bytes))
        self.pools = self._quick, self._slow = _Pool(_QUICK, arguments), _Pool(processes, arguments)

    async def ask(self, op: str, timeout_s: float, arguments: Mapping[str, object]) -> tuple[Json, bytes]:
        """Have one of them do something; whoever is cancelled meanwhile has it killed.

        Args:
            op: a function of `worker.documents.child`.
            timeout_s: seconds it may take.
            arguments: its own.

        Returns:
            What it says, and bytes.

        Raises:
            InvalidTask, InputTooLarge, InputUnavailable: of what it was given.
            PageFailed: it took too long, or its process ended.
        """
        pool = self._slow if op in _SLOW else self._quick
        said, data = await pool.ask({"op": op, "limit_s": timeout_s, **arguments}, timeout_s)
        if error := said.get("error"):
            if error in _ERRORS:
                raise _ERRORS[error](said["message"], said["hint"])
            raise PageFailed(said["message"], again=error == "MemoryError")
        return said, data

    @property
    def pids(self) -> list[int]:
        """Of the processes that live."""
        return self._quick.pids + self._slow.pids

    def close(self) -> None:
        """End them."""
        self._quick.close()
        self._slow.close()


class _Pool:
    """So many processes of a kind."""

    def __init__(self, processes: int, arguments: tuple[str, str]) -> None:
        self._arguments = arguments
        self._turns = asyncio.Semaphore(processes)
        self._threads = ThreadPoolExecutor(processes, "readers")
        self._idle: list[_Reader] = []
        self._busy: set[_Reader] = set()

    @property
    def pids(self) -> list[int]:
        return [reader.pid for reader in (*self._idle, *self._busy) if reader.is_alive]

    async def ask(self, request: Json, timeout_s: float) -> tuple[Json, bytes]:
        async with self._turns:
            reader = self._idle.pop() if self._idle else _Reader(self._arguments)
            if reader.requests and not reader.is_alive:
                reader.kill()
                reader = _Reader(self._arguments)
            self._busy.add(reader)
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await asyncio.get_running_loop().run_in_executor(
                        self._threads, reader.ask, request
                    )
            except TimeoutError:
                reader.kill()
                raise PageFailed(f"It was not done within {timeout_s:g} s.", again=False) from None
            except BaseException:
                reader.kill()
                raise
            finally:
                self._busy.discard(reader)
            if reader.requests < _MOST_REQUESTS:
                self._idle.append(reader)
            else:
                reader.kill()
            return answer

    def close(self) -> None:
        for reader in (*self._idle, *self._busy):
            reader.kill()
        self._idle.clear()


class _Reader:
    """One process, started when it is first asked. Blocking."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self.requests = 0

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ask(self, request: Json) -> tuple[Json, bytes]:
        """Raises PageFailed when the process ends before it has answered."""
        self.requests += 1
        if self._process is None:
            self._start()
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise PageFailed("It was given up.", again=True)
        into: BinaryIO = process.stdin  # type: ignore[assignment]  # typeshed knows IO[bytes]
        out: BinaryIO = process.stdout  # type: ignore[assignment]
        try:
            send(into, packed(request))
            return receive(out)
        except (OSError, EOFError, ValueError):
            self.kill()
            raise PageFailed(f"What read it {_how_it_ended(process.wait())}.", again=True) from None

    def kill(self) -> None:
        """End it, now."""
        self._killed = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(OSError):
                for stream in (self._process.stdin, self._process.stdout):
                    if stream is not None:
                        stream.close()

    def _start(self) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        process = subprocess.Popen(  # noqa: S603 - this Python, a module of ours
            [sys.executable, "-m", "worker.documents.child", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "OMP_NUM_THREADS": self._arguments[0]},
            start_new_session=True,  # Ctrl-C is for the worker, which knows what is to be finished
        )
        self._process = process
        if self._killed:
            self.kill()


def _how_it_ended(status: int) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
