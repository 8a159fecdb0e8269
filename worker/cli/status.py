"""`kc-worker status`."""

import dataclasses
import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from worker.delivery.truth import Truth


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def status(as_json: bool) -> int:
    """What is reachable, and what there is to do: Redis, queues, workers, model servers.

    Exit status 1 when a task could not be done now: no Redis, no worker, or no model server that is ready.
    """
    from rich.console import Console
    from rich.markup import escape

    from worker.settings import settings
    from worker.status import ServerStatus, look

    def abilities(server: ServerStatus) -> str:
        able = server.capabilities
        if able is None:
            return ""  # the reason is among the problems
        parts = [able.server, able.model, f"{able.slots} slots" if able.slots else "batches freely"]
        parts += [f"{able.context_length} tokens of context"] if able.context_length else []
        parts += [f"structured: {able.structured}", "embeddings" if able.embeddings else "no embeddings"]
        return " · ".join(parts)

    found = look(settings())
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found) | {"problems": found.problems}, ensure_ascii=False))
        return 1 if found.problems else 0
    out = Console(highlight=False, soft_wrap=True)

    def line(label: str, *parts: str) -> None:
        out.print(f"{label:<14}{'  '.join(parts)}")

    state = f"[green]ready[/] {found.redis.version}" if found.redis.version else "[red]down[/]"
    line("Redis", escape(found.redis.url), state)
    colours = {"ready": "green", "loading": "yellow", "down": "red"}
    for server in found.servers:
        colour = colours[server.state]
        line("Model server", escape(server.url), f"[{colour}]{server.state}[/]", escape(abilities(server)))
    if (delivery := found.redis.delivery) is not None:
        click.echo(f"\n{_work(delivery, found.redis.copies)}")
    for problem in found.problems:
        click.echo(problem, err=True)
    return 1 if found.problems else 0


def _work(delivery: "Truth", copies: int) -> str:
    """Queues, what became of the messages taken from them, and who took them."""
    from worker.cli.render import columns, duration

    queues = [
        (one.name, str(one.waiting), "-" if one.oldest_s is None else duration(one.oldest_s))
        for one in delivery.queues
    ]
    counted = ("reserved", "running", "parked", "delayed", "suspects", "dead")
    workers = [
        (
            one.name,
            f"{one.held} of {one.limit}",
            _known(one.running),
            _known(one.parked),
            ",".join(one.queues),
        )
        for one in delivery.workers
    ]
    tables: list[list[tuple[str, ...]]] = [
        [("QUEUE", "WAITING", "OLDEST"), *queues],
        [
            (*(name.upper() for name in counted), "COPIES"),
            (*(str(getattr(delivery, name)) for name in counted), str(copies)),
        ],
    ]
    if workers:
        tables.append([("WORKER", "HOLDS", "RUNNING", "PARKED", "QUEUES"), *workers])
    return "\n\n".join(columns(table) for table in tables)


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)
