"""`kc-worker batch`."""

import asyncio
import json
import logging
import signal
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli.options import content, pairs

if TYPE_CHECKING:
    from worker.batch.checking import Report
    from worker.batch.lines import Source
    from worker.batch.local import Note, Place
    from worker.batch.rows import Template
    from worker.settings import Settings


@click.group()
def batch() -> None:
    """Files of requests: `run` one from here, `feed` those of the gateway."""


def _template_text(value: str) -> str:
    from worker.batch.rows import check_template

    text = content(value)
    try:
        check_template(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return text


def _template_option(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    return _template_text(value or "")


@batch.command()
@click.argument("input_path", metavar="INPUT", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File for answers.")
@click.option(
    "--errors", type=click.Path(path_type=Path), help="File for lines without one [OUTPUT.errors.jsonl]."
)
@click.option("--resume", is_flag=True, help="Go on with what OUTPUT holds already.")
@click.option("--overwrite", is_flag=True, help="Begin anew although OUTPUT is there.")
@click.option("--check", "only_check", is_flag=True, help="Only say what is wrong with the lines.")
@click.option("--skip-invalid", is_flag=True, help="Lines that are wrong go to the errors; do the others.")
@click.option("--task", help="Who does the rows [llm.chat].")
@click.option("--prompt", callback=_template_option, help="What to ask of a row, with {column}s; @FILE.")
@click.option("--system", callback=_template_option, help="The system message, with {column}s; @FILE.")
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    callback=pairs(_template_text),
    metavar="KEY=VALUE",
    help="Arguments for every row.",
)
@click.option("--id-column", default="", help="Column of a row's custom_id [row-1, row-2 …].")
@click.option(
    "--queue",
    default="batch",
    show_default=True,
    type=click.Choice(["interactive", "default", "batch"]),
    help="Where its tasks wait.",
)
@click.option(
    "--in-flight", type=click.IntRange(1, 100_000), help="Lines waiting or running at once [BATCH_IN_FLIGHT]."
)
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
def run(**given: Any) -> int:
    """Answer every line of INPUT once: answers go to OUTPUT as they come, in any order.

    \b
    kc-worker batch run in.jsonl -o out.jsonl            lines as OpenAI's Batch API has them
    kc-worker batch run rows.csv -o out.jsonl --prompt "One sentence about {title}: {text}"
    kc-worker batch run rows.parquet -o out.jsonl --task text.keywords --arg "text={body}" --id-column id
    kc-worker batch run in.jsonl -o out.jsonl --resume   after Ctrl-C, or whatever stopped it

    INPUT is JSONL, CSV, TSV or Parquet. Every line is checked before the first is sent. Ctrl-C cancels what
    is under way. Exit status 1: lines are wrong or have no answer; 130: stopped.
    """  # noqa: D301  # click wants the character
    from worker.batch.local import Place
    from worker.settings import settings

    chosen, asked = settings(), _Asked(**given)
    output = asked.output
    template = _template(asked)
    source = _source(asked.input_path, template, chosen)
    if asked.only_check:
        return _say_what_is_wrong(_checked(source, chosen), as_json=asked.as_json)
    place = Place(output, asked.errors or output.with_name(f"{output.stem}.errors.jsonl"))
    place.check(asked.input_path)
    for path in (place.output, place.errors):
        if path.exists() and path.stat().st_size and not (asked.resume or asked.overwrite):
            raise click.UsageError(f"{path} is there. Go on with it: --resume. Begin anew: --overwrite.")
    told = json.dumps(asdict(template)) if template else ""
    with place.claimed():
        if asked.resume and not asked.overwrite:
            note = place.resumed(asked.input_path, told)
        else:
            report = _checked(source, chosen)
            if report.wrong and not (asked.skip_invalid and report.lines):
                return _say_what_is_wrong(report, as_json=asked.as_json)
            note = place.begin(asked.input_path, told, report.lines)
        return asyncio.run(_run(chosen, asked, place, note, source))


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was typed."""

    input_path: Path
    output: Path
    errors: Path | None
    resume: bool
    overwrite: bool
    only_check: bool
    skip_invalid: bool
    task: str | None
    prompt: str
    system: str
    arguments: dict[str, Any]
    id_column: str
    queue: str
    in_flight: int | None
    as_json: bool


@batch.command()
@click.option("--until-eof", is_flag=True, help="End when standard input does.")
def feed(until_eof: bool) -> None:
    """Drive the batches of FILES_DIR until Ctrl-C.

    The gateway starts one by itself. Several may run: each batch is driven by one of them.
    """
    from worker.settings import settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(_feed(settings(), until_eof=until_eof))


def _template(asked: _Asked) -> "Template | None":
    """What is asked of rows; None where the lines say it themselves."""
    from worker.batch.rows import TABLES, Template

    table = asked.input_path.suffix.lower() in TABLES
    if table or asked.task or asked.prompt or asked.system or asked.arguments:
        return Template(
            asked.task or "llm.chat", asked.prompt, asked.system, asked.arguments, asked.id_column
        )
    if asked.id_column:
        raise click.UsageError("--id-column is for rows; say what to do with them: --prompt, --task, --arg.")
    return None


def _source(input_path: Path, template: "Template | None", chosen: "Settings") -> "Source":
    from worker.batch.lines import JsonLines
    from worker.batch.rows import Rows

    most = chosen.storage.max_message_bytes
    return Rows(input_path, template, most) if template else JsonLines(input_path, "", most)


def _checked(source: "Source", chosen: "Settings") -> "Report":
    from rich.console import Console

    from worker.batch.checking import check
    from worker.cli import interrupt

    err = Console(stderr=True)
    with err.status("Checking the lines") as status:

        def show(lines: int) -> None:
            interrupt.check()
            status.update(f"Checking the lines: {lines:,}")

        return check(source, 0, chosen.storage.max_message_bytes, show)


def _say_what_is_wrong(report: "Report", *, as_json: bool) -> int:
    if as_json:
        problems = [
            {"line": one.number, "custom_id": one.custom_id, "code": one.code, "param": one.param,
             "message": one.message}
            for one in report.problems
        ]  # fmt: skip
        click.echo(json.dumps({"lines": report.lines, "wrong": report.wrong, "problems": problems}))
    else:
        for one in report.problems:
            click.echo(one.told, err=True)
        if report.wrong > len(report.problems):
            click.echo(f"… and {report.wrong - len(report.problems):,} more", err=True)
        verdict = f"{report.wrong:,} are wrong; nothing was sent." if report.wrong else "All are well."
        click.echo(f"{report.lines:,} lines. {verdict}", err=True)
    return 1 if report.wrong else 0


async def _run(chosen: "Settings", asked: _Asked, place: "Place", note: "Note", source: "Source") -> int:
    from worker.batch.answers import Answers, ForeignFile
    from worker.batch.local import Stopwatch
    from worker.cli.driving import Job, drive
    from worker.errors import LocalError

    watch = Stopwatch(note.seconds)
    job = Job(note.uuid, note.attempt, source, note.lines, "lines", asked.queue, asked.in_flight)
    try:
        with Answers(note.batch, place.output, place.errors) as answers:
            whole = await drive(chosen, job, answers, lambda: place.stopped(note))
    except ForeignFile as error:
        raise LocalError(str(error)) from None
    note = replace(
        note, attempt=note.attempt + (not whole), seconds=round(watch.seconds, 3),
        completed=answers.completed, failed=answers.failed,
        input_tokens=answers.usage.input_tokens, output_tokens=answers.usage.output_tokens,
    )  # fmt: skip
    place.save(note)
    if not note.failed:
        place.errors.unlink(missing_ok=True)
    _summarise(place, note, as_json=asked.as_json, whole=whole)
    return 130 if not whole else 1 if note.failed else 0


def _summarise(place: "Place", note: "Note", *, as_json: bool, whole: bool) -> None:
    from worker.cli.render import duration

    if as_json:
        said = {**asdict(note), "output": str(place.output), "errors": str(place.errors), "whole": whole}
        click.echo(json.dumps(said))
        return
    done = note.completed + note.failed
    tokens = f"{note.input_tokens:,} tokens in, {note.output_tokens:,} out, {duration(note.seconds)}"
    if not whole:
        click.echo(
            f"Stopped: {done:,} of {note.lines:,} lines are done ({tokens}). Go on with --resume.", err=True
        )
        return
    failed = f", {note.failed:,} without: {place.errors}" if note.failed else ""
    click.echo(f"{note.completed:,} answers: {place.output}{failed} ({tokens})", err=True)


async def _feed(chosen: "Settings", *, until_eof: bool) -> None:
    from worker.batch.feeder import BATCHES, FILES, BatchOptions, Feeder
    from worker.batch.records import Records
    from worker.storage.files import FileStore

    group = chosen.batch
    options = BatchOptions(
        group.batch_max_lines,
        chosen.storage.max_message_bytes,
        None if group.batch_in_flight == "auto" else group.batch_in_flight,
        chosen.redis.result_ttl_s,
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    if until_eof:
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        ended = asyncio.create_task(reader.read())
        ended.add_done_callback(lambda _: stopping.set())
    async with chosen.redis.address.connect(128) as client:
        feeder = Feeder(
            client, Records(group.files_dir / BATCHES), FileStore(group.files_dir / FILES), options
        )
        running = asyncio.create_task(feeder.run())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait((running, stopped), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()  # which is why
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
