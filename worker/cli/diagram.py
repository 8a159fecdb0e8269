"""`kc-worker diagram`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from worker.diagrams.process import Process
    from worker.producer import Producer, Sent
    from worker.storage.blobs import Blobs

_ENDINGS = {"table": ".md", "mermaid": ".mmd", "plantuml": ".puml", "bpmn": ".bpmn", "json": ".json"}


@dataclass(slots=True)
class _Drawing:
    """One file.

    Attributes:
        path: of the file; `-` is standard input.
        data: its bytes.
        process: what it describes; None as long as that is not known.
        sent: its task, where a model is asked.
        error: why it is not described.
    """

    path: str
    data: bytes = b""
    process: "Process | None" = None
    sent: "Sent | None" = None
    error: str = ""


@click.command()
@click.argument("paths", metavar="FILE…", nargs=-1, required=True)
@click.option(
    "--format",
    "to",
    default="table",
    show_default=True,
    type=click.Choice(list(_ENDINGS)),
    help="What to write.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="File to write; for several FILEs a folder."
)
@click.option("--page", type=click.IntRange(min=1), help="Of a PDF or a draw.io file.")
@click.option("--language", help="Of the answer, ISO 639 [that of the diagram].")
@click.option("--adapter", help="LoRA adapter of the model server.")
@click.option(
    "--queue",
    default="interactive",
    show_default=True,
    type=click.Choice(["interactive", "default", "batch"]),
    help="Where pictures wait.",
)
def diagram(
    paths: tuple[str, ...],
    to: str,
    out: Path | None,
    page: int | None,
    language: str | None,
    adapter: str | None,
    queue: str,
) -> int:
    """Turn diagrams of processes into a table of steps, or into other diagrams.

    \b
    kc-worker diagram order.mmd --format bpmn -o order.bpmn
    kc-worker diagram whiteboard.jpg
    kc-worker diagram *.drawio --format mermaid -o converted

    Mermaid, PlantUML, BPMN, draw.io and JSON are read here, at once. Pictures and PDFs are sent to a worker;
    they are kept in BLOB_DIR, which the worker has to see too. Exit status 1: one could not be read.
    """  # noqa: D301  # click wants the character
    asked = {"page": page, "language": language, "adapter": adapter}
    given = {name: value for name, value in asked.items() if value is not None}
    _check_targets(paths, to, out)
    drawings = [_read(path, page or 1) for path in paths]
    pictures = [drawing for drawing in drawings if drawing.data]
    if pictures:
        _describe(pictures, given, queue)
    for drawing in drawings:
        if drawing.process is not None:
            _write(drawing, to, out, language or "en", several=len(drawings) > 1)
        if drawing.error:
            click.echo(f"{drawing.path}: {drawing.error}", err=True)
    return 1 if any(drawing.error for drawing in drawings) else 0


def _check_targets(paths: tuple[str, ...], to: str, out: Path | None) -> None:
    """Nothing is written over what was just written.

    Raises:
        click.UsageError: naming the two.
    """
    if out is None or len(paths) < 2:
        return
    taken: dict[Path, str] = {}
    for path in paths:
        target = _target(path, to, out)
        if target in taken:
            raise click.UsageError(
                f"{taken[target]} and {path} would both be written to {target}; give them one at a time."
            )
        taken[target] = path


def _target(path: str, to: str, folder: Path) -> Path:
    """Where a file goes in a folder."""
    return folder / f"{Path(path).name}{_ENDINGS[to]}"


def _read(path: str, page: int) -> _Drawing:
    """A file, and its process where it is text; the bytes of a picture are left."""
    from worker.diagrams import formats
    from worker.errors import TaskError

    drawing = _Drawing(path)
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        name = "" if path == "-" else Path(path).name
        if not data:
            drawing.error = "It is empty."
        elif formats.source_of(data, name):
            drawing.process = formats.read(data, name, page)
        else:
            drawing.data = data
    except OSError as error:
        drawing.error = f"It cannot be read: {error.strerror}."
    except TaskError as error:
        drawing.error = str(error)
    return drawing


def _describe(pictures: list[_Drawing], given: dict[str, Any], queue: str) -> None:
    """Have a worker look at them."""
    from worker.cli.run import show_progress
    from worker.contracts.diagram import DiagramArguments
    from worker.diagrams import formats
    from worker.producer import Producer
    from worker.settings import settings
    from worker.storage.blobs import Blobs

    DiagramArguments.parse({"image": {"url": "-"}, **given})  # before anything is sent
    chosen = settings()
    blobs = Blobs(chosen.storage.blob_dir)
    with Producer(chosen.redis.address, chosen.redis.result_ttl_s) as producer:
        try:
            for picture in pictures:
                _send(producer, blobs, picture, given, chosen.storage.max_input_bytes, queue)
            for picture in pictures:
                if (sent := picture.sent) is None:
                    continue
                show_progress(producer, sent, picture.path)
                if sent.latest.failed:
                    kind = sent.latest.error_type
                    picture.error = f"{kind}: {sent.latest.error}" if kind else "Cancelled."
                else:
                    picture.process = formats.process_of(sent.latest.result)
        except KeyboardInterrupt:
            for picture in pictures:
                if picture.sent and not picture.sent.latest.ended:
                    producer.cancel(picture.sent.id)
            raise


def _send(
    producer: "Producer",
    blobs: "Blobs",
    picture: _Drawing,
    given: dict[str, Any],
    most_bytes: int,
    queue: str,
) -> None:
    from worker.errors import TaskError

    if len(picture.data) > most_bytes:
        picture.error = (
            f"It has {len(picture.data):,} bytes, the limit is {most_bytes:,}: raise MAX_INPUT_BYTES."
        )
        return
    try:
        image = {"blob": blobs.put(picture.data)}
    except TaskError as error:
        picture.error = str(error)
        return
    arguments = {"image": image, "file_name": Path(picture.path).name, **given}
    picture.sent = producer.send("diagram.describe", arguments, queue)


def _write(drawing: _Drawing, to: str, out: Path | None, language: str, *, several: bool) -> None:
    """To a file, or to standard output."""
    from worker.diagrams import formats, table

    if drawing.process is None:
        return
    form = next((form for form in formats.FORMATS if form == to), None)
    text = formats.write(drawing.process, form) if form else table.write(drawing.process, language)
    if out is None:
        if several:
            click.echo(f"{drawing.path}:", err=True)
        click.echo(text, nl=False)
        return
    target = _target(drawing.path, to, out) if several or out.is_dir() else out
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        drawing.error = f"{target} cannot be written: {error.strerror}."
        return
    click.echo(f"{drawing.path}: {len(drawing.process.steps):,} steps: {target}", err=True)
