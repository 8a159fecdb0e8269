"""`kc-worker status`."""

import dataclasses
import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def status(as_json: bool) -> int:
    """What is reachable: Redis, queues, workers, model servers.

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
    if found.redis.version:
        line("Queues", " · ".join(f"{name} {length}" for name, length in found.redis.queues.items()))
        line("Workers", escape(", ".join(found.redis.workers)) or "none")
    colours = {"ready": "green", "loading": "yellow", "down": "red"}
    for server in found.servers:
        colour = colours[server.state]
        line("Model server", escape(server.url), f"[{colour}]{server.state}[/]", escape(abilities(server)))
    for problem in found.problems:
        click.echo(problem, err=True)
    return 1 if found.problems else 0
