"""Tables on the screen, and what is kept: a JSON record, a Markdown table and pictures."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import redis
from rich.console import Console
from rich.table import Table

from bench import provision
from bench.benchmark import Result
from worker.local.redis import LocalRedis

_OURS = ("celery", "kombu", "redis", "aiohttp", "httpx", "greenlet", "uvloop", "psutil")
_THEIRS = {
    provision.ARQ: ("arq", "redis", "hiredis"),
    provision.PEERS: ("taskiq", "taskiq-redis", "dramatiq"),
}


def show(console: Console, result: Result) -> None:
    """Print the table, what was promised and the notes."""
    table = Table(title=result.title, title_justify="left", title_style="bold")
    first, *others = result.columns
    table.add_column(first.title, no_wrap=True)
    for column in others:
        table.add_column(column.title, justify="right")
    for row in result.rows:
        table.add_row(*cells(result, row))
    console.print(table)
    for target in result.targets:
        mark = "[green]met[/]" if target.met else "[red]not met[/]"
        console.print(f"  {mark}  {target.what}: {target.value:.3g} ({target.sense} {target.bound:g})")
    for note in result.notes:
        console.print(f"  {note}", style="dim", highlight=False)


def cells(result: Result, row: Mapping[str, Any]) -> list[str]:
    """One row as it is shown."""
    first, *others = result.columns
    shown = [str(row[first.key])]
    for column in others:
        value = row.get(column.key)
        shown.append("" if value is None else f"{value:,.{column.digits}f}")
    return shown


def keep(name: str, result: Result, folder: Path, load: float) -> None:
    """Write `NAME.json`, `NAME.md` and a picture a plot.

    Args:
        name: of the benchmark.
        result: what it found.
        folder: where to.
        load: how busy the machine was before, as `os.getloadavg` says; 0 where nobody else used it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python -m bench", *sys.argv[1:]])
    facts = {"command": command, "date": datetime.now(UTC).isoformat(timespec="seconds"), **_surroundings()}
    facts["load_before"] = round(load, 2)
    record = folder / f"{name}.json"
    record.write_text(json.dumps({**facts, **result.as_json()}, indent=1, default=str) + "\n")
    page = folder / f"{name}.md"
    page.write_text(_markdown(name, result, facts))
    draw = [provision.PEERS.program("python"), str(Path(__file__).with_name("plots.py")), str(record)]
    subprocess.run(draw, check=True)


def _markdown(name: str, result: Result, facts: Mapping[str, Any]) -> str:
    machine, python = facts["machine"], facts["versions"]["python"]
    lines = [f"# {result.title}", "", f"`{facts['command']}`, {facts['date'][:10]}."]
    lines.append(f"{machine['cpus']} CPUs ({machine['processor']}), Python {python}.")
    lines.append(f"Load of the machine before: {facts['load_before']}.")
    lines += ["", "| " + " | ".join(column.title for column in result.columns) + " |"]
    lines.append("| --- |" + " ---: |" * (len(result.columns) - 1))
    lines += ["| " + " | ".join(cells(result, row)) + " |" for row in result.rows]
    if result.targets:
        lines += ["", "| promised | measured | bound | |", "| --- | ---: | ---: | --- |"]
    for target in result.targets:
        met = "met" if target.met else "**not met**"
        lines.append(f"| {target.what} | {target.value:.3g} | {target.sense} {target.bound:g} | {met} |")
    lines += ["", *(f"- {note}" for note in result.notes)] if result.notes else []
    lines += ["", *(f"![{plot.label}]({name}-{suffix}.png)" for suffix, plot in result.plots.items())]
    return "\n".join(lines).rstrip() + "\n"


def _surroundings() -> dict[str, Any]:
    versions = {"python": platform.python_version(), "redis-server": _redis_version()}
    versions |= {name: version(name) for name in _OURS}
    for environment, names in _THEIRS.items():
        find = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
        command = [environment.program("python"), "-c", find, *names]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        versions |= {f"{environment.name}: {name}": it for name, it in zip(names, found, strict=True)}
    memory_gib = round(psutil.virtual_memory().total / 2**30, 1)
    machine = {"cpus": psutil.cpu_count(), "processor": _processor(), "memory_gib": memory_gib}
    commit = subprocess.run(
        ["git", "-C", str(provision.REPOSITORY), "rev-parse", "--short", "HEAD"],
        check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ).stdout.strip()  # fmt: skip
    return {"machine": {**machine, "platform": platform.platform()}, "versions": versions, "commit": commit}


def _processor() -> str:
    """The model's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _redis_version() -> str:
    with LocalRedis() as server:
        server.wait_ready()
        with redis.Redis.from_url(server.url) as client:
            return str(client.info("server")["redis_version"])
