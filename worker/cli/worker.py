"""`kc-worker worker`."""

import os
import sys

import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("celery_arguments", nargs=-1, type=click.UNPROCESSED)
def worker(celery_arguments: tuple[str, ...]) -> None:
    """Start a worker: `celery -A worker worker --loglevel=info` and whatever else is given.

    \b
    kc-worker worker
    kc-worker worker -Q interactive,default -n fast@%h
    """  # noqa: D301  # click wants the character
    from worker.settings import settings

    settings()  # a wrong setting is said in one line, before Celery starts
    command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "--loglevel=info"]
    os.execv(sys.executable, [*command, *celery_arguments])  # noqa: S606
