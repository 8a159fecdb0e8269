"""`kc-worker ocr`."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from worker.producer import Producer, Sent
    from worker.settings import Settings
    from worker.storage.blobs import Blobs


@dataclass(slots=True)
class _Paper:
    """One file.

    Attributes:
        path: of the file.
        stem: of what is written.
        sent: its task; None where it was not sent.
        error: why it is not read.
        said: what the summary says of it.
    """

    path: Path
    stem: str
    sent: "Sent | None" = None
    error: str = ""
    said: dict[str, Any] | None = None


@click.command()
@click.argument("paths", metavar="FILE…", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--out", default=".", type=click.Path(path_type=Path, file_okay=False), help="Folder for the answers."
)
@click.option(
    "--mode",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "text", "ocr", "vlm"]),
    help="Text layer, OCR, or the model; auto decides page by page.",
)
@click.option("--pages", help="Which, such as 1-3,7 or 5-.")
@click.option("--language", help="Of the documents, ISO 639; for the model.")
@click.option("--dpi", type=click.IntRange(72, 600), help="Dots an inch in which pages are looked at.")
@click.option("--s3", "upload_to", metavar="URL", help="Put a copy under s3://bucket/prefix [OCR_UPLOAD].")
@click.option(
    "--queue",
    default="default",
    show_default=True,
    type=click.Choice(["interactive", "default", "batch"]),
    help="Where the tasks wait.",
)
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
@click.option(
    "--warm-up", is_flag=True, help="Load this machine's OCR models, read a line with them, and stop."
)
def ocr(
    paths: tuple[Path, ...],
    out: Path,
    mode: str,
    pages: str | None,
    language: str | None,
    dpi: int | None,
    upload_to: str | None,
    queue: str,
    as_json: bool,
    warm_up: bool,
) -> int:
    """Read documents: NAME.md and NAME.json for every PDF or picture.

    \b
    kc-worker ocr report.pdf --out read
    kc-worker ocr scans/*.tiff --out read --s3 s3://bucket/ocr-results
    kc-worker ocr letter.jpg --mode vlm

    Files are kept in BLOB_DIR, which the worker has to see too. Exit status 1: one could not be read.
    """  # noqa: D301  # click wants the character
    from worker.settings import settings

    if warm_up:
        return _warm_up(settings())
    if not paths:
        raise click.UsageError("Missing argument 'FILE…'.")
    asked = {"mode": mode, "pages": pages, "language": language, "dpi": dpi}
    given = {name: value for name, value in asked.items() if value is not None}
    chosen = settings()
    return _read(chosen, paths, out, given, upload_to or chosen.gateway.ocr_upload, queue, as_json=as_json)


def _read(
    chosen: "Settings",
    paths: tuple[Path, ...],
    out: Path,
    given: dict[str, Any],
    upload_to: str,
    queue: str,
    *,
    as_json: bool,
) -> int:
    from worker.cli.run import show_progress
    from worker.contracts.document import OcrArguments
    from worker.producer import Producer
    from worker.storage.blobs import Blobs

    OcrArguments.parse({"document": {"url": "-"}, **given})  # before anything is sent
    began, blobs = time.monotonic(), Blobs(chosen.storage.blob_dir)
    papers = _papers(paths)
    with Producer(chosen.redis.address, chosen.redis.result_ttl_s) as producer:
        try:
            for paper in papers:
                _send(producer, blobs, paper, given, chosen.storage.max_input_bytes, queue)
            for paper in papers:
                if paper.sent is not None:
                    show_progress(producer, paper.sent, str(paper.path))
                    _finish(paper, blobs, out, upload_to)
                if not as_json:
                    _tell(paper)
        except KeyboardInterrupt:
            _cancel(producer, papers)
            raise
    failed = sum(bool(paper.error) for paper in papers)
    if as_json:
        files = [{"input_file": str(p.path), "error": p.error or None, **(p.said or {})} for p in papers]
        said = {"completed": len(papers) - failed, "failed": failed, "files": files}
        click.echo(json.dumps({**said, "seconds": round(time.monotonic() - began, 3)}, ensure_ascii=False))
    elif len(papers) > 1:
        click.echo(f"{len(papers) - failed:,} of {len(papers):,} files: {out}", err=True)
    return 1 if failed else 0


def _papers(paths: tuple[Path, ...]) -> list[_Paper]:
    """The files, no two with the same name for what is written."""
    from worker.storage.papers import stem_of

    papers: list[_Paper] = []
    taken: set[str] = set()
    for path in paths:
        stem = base = stem_of(path.name)
        number = 1
        while stem in taken:
            number += 1
            stem = f"{base}-{number}"
        taken.add(stem)
        papers.append(_Paper(path, stem))
    return papers


def _send(
    producer: "Producer", blobs: "Blobs", paper: _Paper, given: dict[str, Any], most_bytes: int, queue: str
) -> None:
    from worker.errors import TaskError

    try:
        size = paper.path.stat().st_size
        if size > most_bytes:
            paper.error = f"It has {size:,} bytes, the limit is {most_bytes:,}: raise MAX_INPUT_BYTES."
            return
        reference = blobs.put(paper.path.read_bytes())
    except OSError as error:
        paper.error = f"It cannot be read: {error.strerror}."
    except TaskError as error:
        paper.error = str(error)
    else:
        paper.sent = producer.send("document.ocr", {"document": {"blob": reference}, **given}, queue)


def _finish(paper: _Paper, blobs: "Blobs", out: Path, upload_to: str) -> None:
    """Write what came of a task that has ended."""
    from worker.errors import LocalError, TaskError
    from worker.storage.papers import contents, upload, write

    latest = paper.sent.latest if paper.sent else None
    if latest is None or latest.failed:
        kind = latest.error_type if latest else ""
        paper.error = f"{kind}: {latest.error}" if latest and kind else "Cancelled."
        return
    result = latest.result
    try:
        found = contents(result, blobs)
        local = write(out, paper.stem, found)
        paper.said = {
            "pages_processed": result["pages_processed"],
            "pages": result["pages"],
            "markdown": local.markdown,
            "json": local.json,
        }
        if upload_to:
            there = upload(upload_to, paper.stem, found, on_trouble=lambda why: click.echo(why, err=True))
            paper.said["s3"] = {"markdown": there.markdown, "json": there.json}
    except (LocalError, TaskError) as error:
        paper.error = str(error)


def _tell(paper: _Paper) -> None:
    if paper.error:
        click.echo(f"{paper.path}: {paper.error}", err=True)
    if paper.said is None:
        return
    pages = paper.said["pages"]
    wrong = [page for page in pages if "error" in page]
    for page in wrong:
        click.echo(f"{paper.path}: page {page['page']}: {page['error']}", err=True)
    sources = sorted({page["source"] for page in pages if "source" in page})
    read = f"{paper.said['pages_processed']:,} of {len(pages):,} pages ({', '.join(sources)})"
    places = [paper.said["markdown"], paper.said["json"], *paper.said.get("s3", {}).values()]
    click.echo(f"{paper.path}: {read}: {' '.join(places)}")


def _cancel(producer: "Producer", papers: list[_Paper]) -> None:
    under_way = [paper.sent for paper in papers if paper.sent and not paper.sent.latest.ended]
    for sent in under_way:
        producer.cancel(sent.id)
    click.echo(f"Cancelled {len(under_way):,} tasks.", err=True)


def _warm_up(chosen: "Settings") -> int:
    """Read a line here."""
    import asyncio

    from worker.documents.document import warm_up
    from worker.documents.readers import PageFailed
    from worker.wiring import build_readers

    async def warm() -> str:
        readers = build_readers(chosen)
        try:
            return await warm_up(readers)
        finally:
            readers.close()

    try:
        click.echo(asyncio.run(warm()))
    except PageFailed as error:
        click.echo(str(error), err=True)
        return 1
    return 0
