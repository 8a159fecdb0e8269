"""`kc-worker blobs`."""

import re

import click

_UNITS_S = {"h": 3600, "d": 86400}


def _age(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    found = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", value)
    if not found:
        raise click.BadParameter(f"{value!r} is not 12h, 30d …")
    return int(found.group(1)) * _UNITS_S[found.group(2)]


@click.group()
def blobs() -> None:
    """Inputs kept by content hash in BLOB_DIR."""


@blobs.command()
@click.option(
    "--older-than",
    default="30d",
    show_default=True,
    callback=_age,
    help="Since they were last put: 12h, 30d …",
)
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
def sweep(older_than: float, dry_run: bool) -> None:
    """Remove old blobs that no task in Redis refers to, waiting, running or dead.

    Lines of a batch that have not been sent yet are not looked at: keep blobs longer than a batch may take.
    """
    from worker.delivery.asking import ask
    from worker.delivery.references import references
    from worker.settings import settings
    from worker.storage.blobs import Blobs

    chosen = settings()
    kept = ask(chosen.redis.address, references)
    count, size = Blobs(chosen.storage.blob_dir).sweep(older_than, kept, dry_run=dry_run)
    said = "would be removed" if dry_run else "removed"
    click.echo(f"{count:,} blobs {said}, {size:,} bytes; {len(kept):,} are referred to.")
