"""`kc-worker posters`."""

import asyncio
import json
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from worker.batch.poster_folder import PosterFolder
    from worker.batch.posters import Posters

#: Failures that are shown; the others are in the file.
_MOST_SHOWN = 20


@click.command()
@click.argument("input_path", metavar="POSTERS", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the answers."
)
@click.option("--language", default="pl", show_default=True, help="Of the answers, ISO 639.")
@click.option("--turtle", type=click.Path(path_type=Path, dir_okay=False), help="All answers as RDF, too.")
@click.option("--retry-failed", is_flag=True, help="Do those once more that have failed.")
@click.option("--overwrite", is_flag=True, help="Do all of them once more.")
@click.option(
    "--queue",
    default="batch",
    show_default=True,
    type=click.Choice(["interactive", "default", "batch"]),
    help="Where the tasks wait.",
)
@click.option("--in-flight", type=click.IntRange(1, 100_000), help="At once [BATCH_IN_FLIGHT].")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
def posters(
    input_path: Path,
    out: Path,
    language: str,
    turtle: Path | None,
    retry_failed: bool,
    overwrite: bool,
    queue: str,
    in_flight: int | None,
    as_json: bool,
) -> int:
    """Describe and tag every poster of a list: one file ID.json each in the folder --out.

    \b
    kc-worker posters posters.json --out described
    kc-worker posters posters.json --out described --language en --turtle posters.ttl

    POSTERS is {"items": [{"id", "imageUrl", "title", "description", "year", "pageUrl"}]}; only the first two
    are needed. An imageUrl without http:// is a file beside it, which the worker has to see too (INPUT_DIRS).
    Typed again it goes on where it stopped: what has a file is left alone, what failed is in errors.jsonl.
    Exit status 1: some failed; 130: stopped.
    """  # noqa: D301  # click wants the character
    from worker.batch.poster_folder import Note, PosterFolder
    from worker.batch.posters import Posters
    from worker.cli.driving import Job, drive
    from worker.settings import settings

    chosen, began = settings(), time.monotonic()
    found = Posters.read(input_path, language)
    with PosterFolder(out, found, again=retry_failed, overwrite=overwrite) as folder:
        before = folder.count

        def job(note: Note) -> Job:
            source = replace(found, again=note.again)
            return Job(
                uuid.UUID(note.batch), note.attempt, source, len(found.items), "posters", queue, in_flight
            )

        former = job(folder.former) if folder.former else None
        whole = asyncio.run(drive(chosen, job(folder.note), folder, folder.stopped, former))
        described = folder.found()
    if turtle is not None:
        from worker.batch.turtle import write_turtle

        write_turtle(described, turtle)
    _summarise(folder, found, out, before, time.monotonic() - began, whole=whole, as_json=as_json)
    if not whole:
        again = "Type it again without --overwrite" if overwrite else "Type it again"
        click.echo(f"Stopped. {again} to go on.", err=True)
    return 130 if not whole else 1 if folder.failed else 0


def _summarise(
    folder: "PosterFolder",
    found: "Posters",
    out: Path,
    before: int,
    seconds: float,
    *,
    whole: bool,
    as_json: bool,
) -> None:
    from worker.batch.poster_folder import ERRORS
    from worker.cli.render import duration

    usage, total = folder.usage, len(found.items)
    if as_json:
        said = {
            "posters": total, "completed": folder.completed, "failed": folder.failed, "before": before,
            "whole": whole, "seconds": round(seconds, 3), "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens, "folder": str(out), "errors": list(folder.errors.values()),
        }  # fmt: skip
        click.echo(json.dumps(said, ensure_ascii=False))
        return
    for said in list(folder.errors.values())[:_MOST_SHOWN]:
        click.echo(f"{said['id']}: {said['message']}", err=True)
    if folder.failed > _MOST_SHOWN:
        click.echo(f"… and {folder.failed - _MOST_SHOWN:,} more", err=True)
    done = f"{folder.completed:,} of {total:,} posters: {out}"
    failed = f", {folder.failed:,} failed: {out / ERRORS}" if folder.failed else ""
    earlier = f", {before:,} of them earlier" if before else ""
    tokens = f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, {duration(seconds)}"
    click.echo(f"{done}{earlier}{failed} ({tokens})", err=True)
