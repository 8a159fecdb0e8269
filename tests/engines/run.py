"""`make test-engines`: the behavioural suite on every real engine, one after another.

What is missing is installed into `.engines/` first, in the background of the suites that can run already. A
suite sees nothing of its engine but LLM_BACKEND and LLM_SERVER_URL. The last line is `N passed, N failed`.
"""

import argparse
import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from engines import ENGINES, REPOSITORY, Engine, Server
from provision import ENGINES as FOLDER
from provision import NotProvisionedError, OutOfTimeError, Provisioner, say

from worker.errors import LocalError
from worker.local.llamacpp import LocalLlama

#: A suite is not begun with less than this left, seconds.
LEAST_SUITE_S = 60.0


@dataclass(slots=True)
class Outcome:
    """What became of one engine.

    Attributes:
        engine: its name.
        passed: tests that passed.
        failed: tests that failed or could not be run, and an engine that could not be tested at all.
        skipped: tests that do not apply to it.
        took_s: seconds, the start of the engine included.
        not_run: why it was not tested, or not to the end; "" where it was.
        tolerable: whether that may be so: the time was over.
    """

    engine: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    took_s: float = 0.0
    not_run: str = ""
    tolerable: bool = False

    @property
    def words(self) -> str:
        """One cell of the summary."""
        if self.not_run:
            return f"{'NOT FINISHED' if self.passed else 'NOT RUN'}: {self.not_run.splitlines()[0]}"
        return "FAILED" if self.failed else "passed"


class Run:
    """One `make test-engines`.

    Args:
        budget_s: seconds everything may take; None: as long as it takes.
        keep: leave each engine running after its suite until Enter is pressed.
        pytest_args: passed on to pytest.
    """

    def __init__(self, budget_s: float | None, keep: bool, pytest_args: Sequence[str]) -> None:
        self._deadline_s = None if budget_s is None else time.monotonic() + budget_s
        self._budget = "" if budget_s is None else f"the time budget of {budget_s:.0f} s"
        self._keep = keep
        self._pytest_args = pytest_args
        self._stopped = threading.Event()

    def engines(self, chosen: Sequence[Engine]) -> Iterator[Outcome]:
        """Test each engine as soon as it is installed and the one before it has ended."""
        provisioner = Provisioner(self._deadline_s, self._stopped)
        with concurrent.futures.ThreadPoolExecutor() as installers:
            try:
                waiting = {installers.submit(engine.provision, provisioner): engine for engine in chosen}
                while waiting:
                    done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                    # In the order of `chosen` among those that are installed.
                    installed = next(future for future in waiting if future in done)
                    yield self._test(waiting.pop(installed), installed)
            finally:
                self._stopped.set()

    def _test(self, engine: Engine, installed: "concurrent.futures.Future[None]") -> Outcome:
        outcome = Outcome(engine.name)
        began_s = time.monotonic()
        try:
            installed.result()
            self._suite(engine, outcome)
        except OutOfTimeError as error:
            outcome.not_run, outcome.tolerable = f"{error} ({self._budget})", True
        except NotProvisionedError as error:
            # Without a compiler, say, the other engines can still be tested; in CI everything must be.
            outcome.not_run, outcome.tolerable = f"it cannot be installed: {error}", not _in_ci()
        except LocalError as error:
            outcome.not_run = str(error)
        outcome.took_s = time.monotonic() - began_s
        if outcome.not_run:
            outcome.failed += not outcome.tolerable
            say(f"{engine.name}: NOT RUN: {outcome.not_run}")
        return outcome

    def _suite(self, engine: Engine, outcome: Outcome) -> None:
        left_s = self._left_s
        if left_s is not None and left_s < LEAST_SUITE_S:
            raise OutOfTimeError(f"only {max(0.0, left_s):.0f} s were left for its suite")
        say(f"{engine.name}: starting …")
        with engine.start(FOLDER / "logs" / engine.name) as server:
            try:
                if left_s is None:
                    server.wait_ready()
                else:
                    server.wait_ready(left_s)
            except LocalError:
                if self._late and server.alive:
                    raise OutOfTimeError("it was not ready when the time was over") from None
                raise
            say(f"{engine.name}: ready at {server.url}; behavioural suite …")
            self._pytest(engine, server, outcome)
            if self._keep:
                print(f"{engine.name} stays at {server.url}, log {server.log_path}. Enter ends it.")
                with contextlib.suppress(EOFError):
                    input()

    def _pytest(self, engine: Engine, server: LocalLlama | Server, outcome: Outcome) -> None:
        report = FOLDER / "logs" / engine.name / "suite.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", engine.suite, f"--junitxml={report}"]
        command += ["-p", "no:cacheprovider", "--durations=5", *self._pytest_args]
        env = {
            **os.environ,
            "ENGINE": engine.name,
            "LLM_BACKEND": engine.backend,
            "LLM_SERVER_URL": server.url,
        }
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, env=env)
        try:
            while process.poll() is None and server.alive and not self._late:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
        finally:
            cut_off = process.poll() is None
            if cut_off:
                _end(process)
        _count(report, outcome)
        if not server.alive:
            raise server.failure(f"ended with status {server.process.returncode} during its suite")
        if cut_off:
            raise OutOfTimeError(f"its suite had not ended after {outcome.passed} passed tests")
        if process.returncode and not outcome.failed:
            outcome.failed = 1
            say(f"{engine.name}: pytest ended with status {process.returncode}")

    @property
    def _late(self) -> bool:
        return self._left_s is not None and self._left_s <= 0

    @property
    def _left_s(self) -> float | None:
        return None if self._deadline_s is None else self._deadline_s - time.monotonic()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """As Ctrl-C would: pytest stops what it started and writes its report."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _count(report: Path, outcome: Outcome) -> None:
    if not report.is_file():
        return
    for suite in ET.parse(report).getroot().iter("testsuite"):
        number = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        outcome.failed += number["failures"] + number["errors"]
        outcome.skipped += number["skipped"]
        outcome.passed += number["tests"] - number["failures"] - number["errors"] - number["skipped"]


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def main() -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make test-engines", description=__doc__)
    parser.add_argument("--engine", action="append", choices=list(ENGINES), help="only this one; repeatable")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="what is not done by then is left out"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave each engine running until Enter is pressed"
    )
    arguments, pytest_args = parser.parse_known_args()
    chosen = [ENGINES[name] for name in arguments.engine or ENGINES]

    outcomes = list(Run(arguments.budget, arguments.keep, pytest_args).engines(chosen))

    print(f"\n{'engine':<18}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}  outcome")
    for outcome in outcomes:
        print(
            f"{outcome.engine:<18}{outcome.passed:>8}{outcome.failed:>8}{outcome.skipped:>9}"
            f"{outcome.took_s:>9.0f}  {outcome.words}"
        )
    for outcome in outcomes:
        if outcome.not_run and outcome.tolerable:
            print(f"Nothing is known about {outcome.engine} from here on: {outcome.words}")
    passed, failed = (sum(getattr(outcome, key) for outcome in outcomes) for key in ("passed", "failed"))
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
