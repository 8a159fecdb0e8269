"""`kc-worker cancel`."""

import json

import click

_WORDS = {
    "running": "was running; it is told to stop.",
    "waiting": "was waiting, or is not known here; it will not run.",
    "REVOKED": "was cancelled before.",
}


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout: what each ID was.")
def cancel(ids: tuple[str, ...], as_json: bool) -> int:
    """Cancel tasks by their ids, wherever they are: queued, delayed or running. They end REVOKED.

    Exit status 1: one of them had ended before, in SUCCESS or FAILURE.
    """
    from worker.delivery.asking import cancel_tasks
    from worker.settings import settings

    group = settings().redis
    found = cancel_tasks(group.address, ids, group.result_ttl_s)
    if as_json:
        click.echo(json.dumps(found))
    else:
        for task_id, was in found.items():
            click.echo(f"{task_id} {_WORDS.get(was, f'has already ended in {was}.')}")
    return 1 if {"SUCCESS", "FAILURE"} & set(found.values()) else 0
