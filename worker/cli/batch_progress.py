"""How far a batch is: in a terminal a bar with rates and the time left, elsewhere a line now and then."""

import time
from typing import TYPE_CHECKING, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from worker.batch.answers import Sink
    from worker.batch.running import Run

#: Seconds between two lines where there is no terminal; and over which rates are measured.
_LINE_S, _RATE_S = 30.0, 20.0
#: Seconds between two measurements.
_MEASURE_S = 0.5


class BatchProgress:
    """Use it as a context manager.

    Args:
        lines: of the batch.
        unit: what they are, in the plural.
        answers: to them.
        running: what drives it.
    """

    def __init__(self, lines: int, unit: str, answers: "Sink", running: "Run") -> None:
        self._lines, self._unit, self._answers, self._running = lines, unit, answers, running
        self._err = Console(stderr=True)
        self._progress = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
            console=self._err, transient=True, disable=not self._err.is_terminal,
        )  # fmt: skip
        self._bar = self._progress.add_task("", total=lines)
        self._measured: list[tuple[float, int, int]] = []
        self._said_s = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        self.show()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line for people."""
        self._err.print(text, highlight=False)

    def show(self) -> None:
        """As it is now."""
        now = time.monotonic()
        if self._measured and now - self._measured[-1][0] < _MEASURE_S:
            return
        answers = self._answers
        self._measured.append((now, answers.count, answers.usage.output_tokens))
        while now - self._measured[0][0] > _RATE_S and len(self._measured) > 2:
            self._measured.pop(0)
        told = self._told()
        self._progress.update(self._bar, completed=answers.count, description=told)
        if not self._err.is_terminal and now - self._said_s > _LINE_S:
            self._said_s = now
            click.echo(f"{answers.count:,} of {self._lines:,} {self._unit}, {told}", err=True)

    def _told(self) -> str:
        (then, lines, tokens), (now, lines_now, tokens_now) = self._measured[0], self._measured[-1]
        passed, more = now - then, lines_now - lines
        parts = [f"{self._answers.failed:,} failed"] if self._answers.failed else []
        if passed > 0 and more:
            left_s = (self._lines - lines_now) * passed / more
            parts += [
                f"{more / passed:.1f} {self._unit}/s",
                f"{(tokens_now - tokens) / passed:,.0f} tokens/s",
                f"{_clock(left_s)} left",
            ]
        elif self._running.under_way:
            parts.append(f"{self._running.under_way:,} under way")
        return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
