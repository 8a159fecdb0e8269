"""`kc-worker blobs`."""

import click

from worker.cli.options import age


@click.group()
def blobs() -> None:
    """Inputs kept by content hash in BLOB_DIR."""


@blobs.command()
@click.option(
    "--older-than",
    default="30d",
    show_default=True,
    callback=age,
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
