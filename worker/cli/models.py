"""`kc-worker models`: pull, list, check."""

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.errors import ModelError

if TYPE_CHECKING:
    from rich.progress import Progress

    from worker.models.catalogue import Model
    from worker.models.check import Check
    from worker.models.transfer import Report

_PLAIN_LINE_EVERY_S = 5.0


class _Failure(click.ClickException):
    """A models command did not work."""

    def show(self, file: object = None) -> None:
        click.echo(f"error: {self.message}", err=True)


class _NotNamed(_Failure):
    """The command line lacks something only the person can say."""

    exit_code = 2


@contextmanager
def _failures() -> Iterator[None]:
    from worker.models.pull import FileNotNamed

    try:
        yield
    except FileNotNamed as error:
        raise _NotNamed(str(error)) from error
    except ModelError as error:
        raise _Failure(str(error)) from error


@click.group()
def models() -> None:
    """Download models, list and check them."""


@models.command()
@click.argument("repo", metavar="REPO")
@click.argument("file", metavar="[FILE]", default="")
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit.")
@click.option("--hf", "whole", is_flag=True, help="The Hugging Face layout even where there are GGUF files.")
@click.option("--force", is_flag=True, help="Fetch again what is there; replace files from elsewhere.")
def pull(repo: str, file: str, revision: str, whole: bool, force: bool) -> None:
    """Fetch a model from the Hugging Face Hub into MODELS_DIR, verified.

    REPO is ORGANISATION/NAME. With FILE, that GGUF file goes to MODELS_DIR/gguf; without, what REPO has: its
    one GGUF file, or tokenizer, configuration and safetensors to MODELS_DIR/hf/ORGANISATION--NAME.

    Where the model is there already nothing is fetched, and no network is needed. An interrupted pull goes on
    where it stopped. Settings: HF_TOKEN, HF_CACHE_DIR, MODELS_DIR; HF_ENDPOINT names a mirror.
    """
    from worker.models import pull as pulling
    from worker.models.check import check as check_model
    from worker.models.words import size_text
    from worker.settings import settings

    if whole and file:
        raise click.UsageError("--hf takes the whole repository: leave FILE out.")
    chosen = settings().models
    source = pulling.Source(
        repo=repo,
        file=file,
        revision=revision,
        whole=whole,
        token=chosen.hf_token.get_secret_value() or None,
        endpoint=chosen.hf_endpoint or None,
        cache_dir=chosen.hf_cache_dir,
    )
    report = _report()
    with _failures():
        pulled = pulling.pull(source, chosen.models_dir, report, force=force)
        verb = "Fetched" if pulled.fetched else "Present"
        click.echo(f"{verb}: {pulled.path} ({size_text(pulled.size_bytes)}), {pulled.note}.")
        checked = check_model(pulled.path)
    for sentence in (*checked.problems, *checked.warnings):
        click.echo(f"warning: {sentence}", err=True)


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array on stdout.")
def list_models(as_json: bool) -> None:
    """The models in MODELS_DIR."""
    from worker.models import catalogue
    from worker.settings import settings

    models_dir = settings().models.models_dir
    with _failures():
        found = catalogue.list_models(models_dir)
    if as_json:
        rows = [dataclasses.asdict(model) | {"path": str(model.path)} for model in found]
        click.echo(json.dumps(rows, ensure_ascii=False))
    elif not found:
        click.echo(f"No models in {models_dir}. Get one with `kc-worker models pull REPO FILE`.")
    else:
        _print_table(found)


@models.command()
@click.argument("name", metavar="[NAME|PATH]", default="")
@click.option("--json", "as_json", is_flag=True, help="One JSON array on stdout.")
def check(name: str, as_json: bool) -> int:
    """Say in words what is wrong with a model, or with every one in MODELS_DIR.

    Exit status 1 where a server could not use one of them.
    """
    from worker.models import catalogue
    from worker.models.check import check as check_model
    from worker.settings import settings

    models_dir = settings().models.models_dir
    with _failures():
        if name:
            paths = [catalogue.find(name, models_dir)]
        else:
            paths = [*catalogue.gguf_files(models_dir), *catalogue.hf_folders(models_dir)]
        checks = [check_model(path) for path in paths]
    if as_json:
        click.echo(json.dumps([_check_json(one) for one in checks], ensure_ascii=False))
    elif not checks:
        click.echo(f"No models in {models_dir}. Get one with `kc-worker models pull REPO FILE`.")
    else:
        for one in checks:
            _print_check(one)
    return 0 if all(one.ok for one in checks) else 1


def _check_json(one: "Check") -> dict[str, object]:
    return {
        "path": str(one.path),
        "kind": one.kind,
        "ok": one.ok,
        "problems": list(one.problems),
        "warnings": list(one.warnings),
    }


def _print_check(one: "Check") -> None:
    click.echo(f"{one.path}: {'ok' if one.ok else 'unusable'}")
    for sentence in one.problems:
        click.echo(f"  problem: {sentence}")
    for sentence in one.warnings:
        click.echo(f"  warning: {sentence}")


def _print_table(found: "list[Model]") -> None:
    from worker.models.words import count_text, size_text

    header = ("NAME", "KIND", "SIZE", "QUANTISATION", "ARCHITECTURE", "CONTEXT", "PARAMETERS")
    rows = [
        (
            model.name,
            model.kind,
            size_text(model.size_bytes),
            model.quantization or "?",
            model.architecture or "?",
            str(model.context_length or "?"),
            count_text(model.parameters) if model.parameters else "?",
        )
        for model in found
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    # Plain columns, never wrapped: they are read by awk as often as by people.
    for row, problem in zip((header, *rows), (None, *(model.problem for model in found)), strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip() + (f"  unusable: {problem}" if problem else ""))


def _report() -> "Report":
    if sys.stderr.isatty():
        return _Bar()
    return _Lines()


class _Bar:
    """A progress bar with bytes, rate and time left."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        click.echo(text, err=True)

    def begin(self, total_bytes: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=total_bytes)
        self._progress.start()

    def file(self, name: str) -> None:
        if self._progress is not None:
            self._progress.update(self._task, description=Path(name).name)

    def skip(self, count_bytes: int) -> None:
        if self._progress is not None:
            # Past `advance`, which would count it into the rate.
            self._progress.tasks[0].completed += count_bytes

    def advance(self, count_bytes: int) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, count_bytes)

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()


class _Lines:
    """The same as plain lines, one every few seconds, for logs."""

    def __init__(self) -> None:
        self._name = ""
        self._total = self._done = self._came = 0
        self._began = self._said = 0.0

    def say(self, text: str) -> None:
        click.echo(text, err=True)

    def begin(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._began = time.monotonic()

    def file(self, name: str) -> None:
        self._name = name

    def skip(self, count_bytes: int) -> None:
        self._done += count_bytes

    def advance(self, count_bytes: int) -> None:
        self._done += count_bytes
        self._came += count_bytes
        if time.monotonic() - self._said >= _PLAIN_LINE_EVERY_S:
            self._line()

    def end(self) -> None:
        self._line()

    def _line(self) -> None:
        from worker.models.words import size_text

        self._said = time.monotonic()
        rate = self._came / max(self._said - self._began, 0.001)
        left = (
            f", {(self._total - self._done) / rate:.0f} s left" if rate and self._done < self._total else ""
        )
        share = 100 * self._done // self._total if self._total else 100
        done = f"{size_text(self._done)} of {size_text(self._total)} ({share} %)"
        click.echo(f"{self._name}: {done}, {size_text(rate)}/s{left}", err=True)
