"""What a benchmark is and what it hands over: see `benchmarks/` for the benchmarks."""

import statistics
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from subprocess import CalledProcessError
from typing import Any, Literal, Protocol

from rich.console import Console

from worker.errors import LocalError

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure.

    Attributes:
        quick: a short form that shows whether anything is badly wrong.
        rounds: times each thing is measured, in turns; None: the benchmark's own choice.
        console: for progress.
    """

    quick: bool
    rounds: int | None
    console: Console

    def rounds_or(self, usual: int) -> int:
        """Rounds asked for, else so many; 1 for the short form."""
        return self.rounds or (1 if self.quick else usual)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        key: of the rows.
        title: above it, unit included.
        digits: after the decimal point.
    """

    key: str
    title: str
    digits: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """One figure that was promised.

    Attributes:
        what: in words.
        value: as measured.
        bound: what it is held against.
        sense: whether it has to be at least or at most that.
    """

    what: str
    value: float
    bound: float
    sense: Literal[">=", "<="]

    @property
    def met(self) -> bool:
        """Whether it is kept."""
        return self.value >= self.bound if self.sense == ">=" else self.value <= self.bound


@dataclass(frozen=True, slots=True)
class Plot:
    """How rows become a picture.

    Attributes:
        kind: "bars", one a row, or a "line" through all rows.
        value: key of what is drawn.
        label: of its axis, with the unit.
        x: for a line, the key along the other axis, which is logarithmic.
        x_label: its name.
    """

    kind: Literal["bars", "line"]
    value: str
    label: str
    x: str = ""
    x_label: str = ""


@dataclass(slots=True)
class Result:
    """What a benchmark found.

    Attributes:
        title: above the table.
        columns: of the table; the first is text.
        rows: medians.
        targets: what was promised, and what came of it.
        notes: sentences under the table: how things were measured, what could not be.
        plots: pictures, by the end of their file names.
        rounds: what each round measured, by way; of these only numbers are recorded.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()
    plots: Mapping[str, Plot] = field(default_factory=dict)
    rounds: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    def as_json(self) -> Row:
        """For the record."""
        found = asdict(self)
        found["rounds"] = {name: [_numbers(row) for row in rows] for name, rows in self.rounds.items()}
        found["targets"] = [{**asdict(target), "met": target.met} for target in self.targets]
        return found


class Benchmark(Protocol):
    """One benchmark."""

    name: str
    #: Whether the short form has it.
    quick: bool

    def run(self, options: Options) -> Result:
        """Measure."""
        ...


def in_turns(
    ways: Mapping[str, Callable[[], Row]],
    rounds: int,
    console: Console,
    show: str,
    spare: Container[str] = (),
) -> dict[str, list[Row]]:
    """Measure each way once a round, A B C A B C …, so that what changes on the machine touches all alike.

    Args:
        ways: what to measure, by name.
        rounds: how often.
        console: gets a line a measurement.
        show: which figure that line tells.
        spare: ways that are left out where they fail.

    Raises:
        LocalError: another way failed.
    """
    measured: dict[str, list[Row]] = {name: [] for name in ways}
    for number in range(1, rounds + 1):
        for name in tuple(measured):
            try:
                row = ways[name]()
            except (LocalError, CalledProcessError) as error:
                if name not in spare:
                    raise
                console.print(f"  {name} is left out: {error}", style="red", markup=False)
                del measured[name]
                continue
            measured[name].append(row)
            console.print(f"  round {number}/{rounds}  {name}: {row[show]:.4g} {show}", highlight=False)
    return measured


def medians(measured: Mapping[str, Sequence[Row]]) -> list[Row]:
    """One row a way: the median of every number over the rounds."""
    rows = []
    for name, found in measured.items():
        keys = _numbers(found[0])
        rows.append({"way": name, **{key: statistics.median(row[key] for row in found) for key in keys}})
    return rows


def _numbers(row: Row) -> Row:
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


def ratios(rows: Sequence[Row], key: str, of: str, name: str) -> None:
    """Add to each row the column `name`: its `key` as a part of that of the way `of`."""
    whole = next((row[key] for row in rows if row["way"] == of), None)
    for row in rows:
        if whole:
            row[name] = row[key] / whole


def paired_ratio(measured: Mapping[str, Sequence[Row]], key: str, way: str, of: str) -> float:
    """The median over the rounds of one way's figure divided by another's of the same round."""
    pairs = zip(measured[way], measured[of], strict=True)
    return float(statistics.median(mine[key] / other[key] for mine, other in pairs))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
