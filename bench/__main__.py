"""`python -m bench [--quick] [NAME …]`: measure, show, and keep the record under docs/benchmarks."""

import argparse
import os
import signal
import time
from pathlib import Path
from subprocess import CalledProcessError

from rich.console import Console

from bench import report
from bench.benchmark import Options
from bench.benchmarks import BENCHMARKS
from bench.provision import REPOSITORY
from worker.errors import LocalError


def main() -> int:
    """Run the benchmarks asked for; returns the exit status: 0 unless one could not be run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="short forms, under three minutes together")
    parser.add_argument("--rounds", type=int, metavar="N", help="times each thing is measured")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where records go (docs/benchmarks; with --quick: nowhere)"
    )
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # servers and workers are stopped on the way out

    console = Console(width=140)
    options = Options(given.quick, given.rounds, console)
    chosen = [BENCHMARKS[name] for name in given.names or BENCHMARKS]
    if given.quick and not given.names:
        chosen = [benchmark for benchmark in chosen if benchmark.quick]
    folder = given.out or (None if given.quick else REPOSITORY / "docs" / "benchmarks")
    failed = 0
    for benchmark in chosen:
        began, load = time.monotonic(), os.getloadavg()[0]
        console.rule(f"[bold]{benchmark.name}", align="left")
        try:
            result = benchmark.run(options)
        except (LocalError, CalledProcessError) as error:
            console.print(f"{benchmark.name} could not be measured: {error}", style="red", markup=False)
            failed += 1
            continue
        report.show(console, result)
        if folder is not None:
            report.keep(benchmark.name, result, folder, load)
        console.print(f"  {time.monotonic() - began:.0f} s", style="dim")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
