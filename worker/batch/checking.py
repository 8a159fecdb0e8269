"""All of a batch's lines checked before the first of them is sent: a night is not lost to line 90,000."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from worker.batch.lines import Line, Problem, Source

#: Problems that are told; the others are counted.
MOST_TOLD = 100
#: Pages SQLite keeps in memory, KiB.
_CACHE_KIB = 8 * 1024
#: Lines between two calls of `on_progress`.
_STEP = 1000


@dataclass(slots=True)
class Report:
    """What there is in a batch.

    Attributes:
        lines: how many there are.
        wrong: how many of them are no valid requests.
        problems: the first of those.
        model: the model that the first line asks for.
    """

    lines: int = 0
    wrong: int = 0
    problems: list[Problem] = field(default_factory=list)
    model: str = ""

    def add(self, problem: Problem) -> None:
        """One more that is wrong."""
        self.wrong += 1
        if len(self.problems) < MOST_TOLD:
            self.problems.append(problem)


def check(
    source: Source,
    most_lines: int = 0,
    most_bytes: int = 256 * 1024,
    on_progress: Callable[[int], None] = lambda _lines: None,
) -> Report:
    """Look at every line.

    Args:
        source: of the lines.
        most_lines: there may be; 0: any number.
        most_bytes: of one task's message.
        on_progress: told how many lines have been looked at; what it raises ends it.

    The ids are kept on disk, so that it takes the same memory for any number of them.
    """
    report = Report()
    # An empty name is a database in a temporary file that nobody else sees.
    seen = sqlite3.connect("", isolation_level=None)
    try:
        seen.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        seen.execute("PRAGMA journal_mode = OFF")
        seen.execute("CREATE TABLE seen (custom_id TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID")
        seen.execute("BEGIN")
        for one in source.lines():
            report.lines += 1
            if report.lines % _STEP == 0:
                on_progress(report.lines)
            problem = one if isinstance(one, Problem) else _wrong_with(one, seen, most_bytes)
            if problem is not None:
                report.add(problem)
            elif isinstance(one, Line) and not report.model:
                report.model = str(one.body.get("model") or "")
            if most_lines and report.lines > most_lines:
                report.add(
                    Problem(0, "too_many_lines", f"There are more than {most_lines:,} lines. Split the file.")
                )
                break
    except Problem as problem:
        report.add(problem)
    finally:
        seen.close()
    if not report.lines and not report.problems:
        report.add(Problem(0, "empty_file", "There are no lines."))
    return report


#: Checking takes long, and what writes answers must not wait for it: a thread for all checks of a process.
_CHECKER = ThreadPoolExecutor(1, "check")


async def checked(source: Source, most_lines: int, most_bytes: int) -> Report:
    """`check` beside the loop; it ends early where who waits for it is cancelled."""
    unwanted = threading.Event()

    def on_progress(_lines: int) -> None:
        if unwanted.is_set():
            raise asyncio.CancelledError

    checking = asyncio.get_running_loop().run_in_executor(
        _CHECKER, check, source, most_lines, most_bytes, on_progress
    )
    try:
        return await asyncio.shield(checking)
    except asyncio.CancelledError:
        unwanted.set()
        raise


def _wrong_with(line: Line, seen: sqlite3.Connection, most_bytes: int) -> Problem | None:
    try:
        seen.execute("INSERT INTO seen VALUES (?, ?)", (line.custom_id, line.number))
    except sqlite3.IntegrityError:
        first = seen.execute("SELECT number FROM seen WHERE custom_id = ?", (line.custom_id,)).fetchone()[0]
        return Problem(
            line.number,
            "duplicate_custom_id",
            f"`custom_id` {line.custom_id[:200]!r} is that of line {first} too.",
            "custom_id",
            line.custom_id,
        )
    try:
        line.arguments()
    except Problem as problem:
        return problem
    if (size := len(json.dumps(line.body))) > most_bytes:
        return Problem(
            line.number,
            "line_too_long",
            f"`body` has {size:,} bytes as a message, the limit is {most_bytes:,}.",
            "body",
            line.custom_id,
        )
    return None
