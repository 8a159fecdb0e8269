"""`kc-worker run`."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from worker.cli.options import content, pairs

if TYPE_CHECKING:
    from worker.producer import Producer, Sent

#: Where `--text` goes in a task that has no `text`.
_TEXT_FIELD = {
    "llm.chat": "messages",
    "llm.embed": "input",
    "text.normalize": "request",
    "story.continue": "prompt",
}
_NO_WORKER_AFTER_S = 3.0


def _json(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    try:
        return json.loads(content(value))
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"is not JSON: {error}") from None


@click.command()
@click.argument("name")
@click.option("--messages", callback=_json, metavar="JSON|@FILE", help="Chat messages.")
@click.option("--text", help="The text; for llm.chat the question.")
@click.option("--text-file", metavar="FILE", help="The text from a file; - is standard input.")
@click.option("--schema", callback=_json, metavar="JSON|@FILE", help="JSON Schema of the answer.")
@click.option(
    "--arg", "arguments", multiple=True, callback=pairs(), metavar="KEY=VALUE", help="More arguments."
)
@click.option(
    "--queue",
    default="interactive",
    show_default=True,
    type=click.Choice(["interactive", "default", "batch"]),
    help="Where it waits.",
)
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), help="Seconds until it is given up.")
@click.option("--stream", is_flag=True, help="Show the answer while it is generated.")
@click.option("--json", "as_json", is_flag=True, help="The whole result as JSON.")
def run(
    name: str,
    messages: Any,
    text: str | None,
    text_file: str | None,
    schema: Any,
    arguments: dict[str, Any],
    queue: str,
    deadline: float | None,
    stream: bool,
    as_json: bool,
) -> int:
    """Send the task NAME to the Redis of the settings, show its progress and its answer.

    \b
    kc-worker run llm.chat --text "Name three rivers" --arg max_tokens=40 --stream
    kc-worker run llm.chat --messages '[{"role": "user", "content": "Hello"}]'
    kc-worker run text.summarize --text-file report.txt --arg max_length=100
    kc-worker run llm.extract --text-file letter.txt --schema @order.json --json

    Ctrl-C cancels the task. Exit status 1: it failed; the reason is on stderr.
    """  # noqa: D301  # click wants the character
    if text_file is not None:
        text = content(f"@{text_file}")
    if text is not None:
        field = _TEXT_FIELD.get(name, "text")
        arguments[field] = [{"role": "user", "content": text}] if field == "messages" else text
    arguments |= {} if messages is None else {"messages": messages}
    arguments |= {} if schema is None else {"schema": schema}
    if deadline is not None:
        arguments["options"] = {**arguments.get("options", {}), "deadline_s": deadline}
    if stream:
        arguments["options"] = {**arguments.get("options", {}), "stream": True}
    return _send_and_follow(name, arguments, queue, stream=stream and not as_json, as_json=as_json)


def _send_and_follow(name: str, arguments: dict[str, Any], queue: str, *, stream: bool, as_json: bool) -> int:
    from worker.cli.render import readable_output
    from worker.producer import Producer, fit_message
    from worker.settings import settings
    from worker.wiring import build_texts

    chosen = settings()
    limit = chosen.storage.max_message_bytes
    arguments, blob_bytes = fit_message(arguments, "text", build_texts(chosen), limit)
    if blob_bytes:
        click.echo(
            f"The text has {blob_bytes:,} bytes, too many for a message: it is kept in "
            f"{chosen.storage.blob_dir} and sent by reference. The worker must see the same folder.",
            err=True,
        )
    with Producer(chosen.redis.address, chosen.redis.result_ttl_s) as producer:
        task = producer.send(name, arguments, queue)
        try:
            if stream:
                asyncio.run(show_stream(producer, task))
            else:
                show_progress(producer, task, name)
        except KeyboardInterrupt:
            producer.cancel(task.id)
            click.echo(f"Cancelled {task.id}.", err=True)
            raise
    if task.latest.failed:
        reason = f"{task.latest.error_type}: {task.latest.error}" if task.latest.error_type else "Cancelled."
        click.echo(reason, err=True)
        return 1
    result = task.latest.result
    if not stream:
        click.echo(json.dumps(result, ensure_ascii=False) if as_json else readable_output(result))
    return 0


def show_progress(producer: "Producer", task: "Sent", label: str) -> None:
    """A bar where the task says how far it is, until it has ended."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from worker.cli import interrupt

    err = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    warned = False
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task(label, total=None)

        def show() -> None:
            nonlocal warned
            interrupt.check()
            update = task.latest
            if update.state == "PROGRESS":
                described = f"{label} ({update.unit})"
                progress.update(bar, description=described, completed=update.done, total=update.total)
            if not warned and update.state == "PENDING" and task.wall_s > _NO_WORKER_AFTER_S:
                warned = True
                _say_if_nobody_works(producer)

        producer.follow([task], on_update=show)


async def show_stream(producer: "Producer", task: "Sent") -> None:
    """The answer as it comes, until the task has ended."""
    from worker.delivery.following import Follower

    async def say_if_nobody_works() -> None:
        await asyncio.sleep(_NO_WORKER_AFTER_S)
        await asyncio.to_thread(_say_if_nobody_works, producer)

    warning = asyncio.create_task(say_if_nobody_works())
    said = ""
    async with Follower(producer.address) as follower:
        async for entry in follower.stream(task.id):
            warning.cancel()
            if entry.seq == 0 and said:
                click.echo("\n(Its worker died; the task begins anew.)", err=True)
            if entry.type == "chunk":
                click.echo(entry.text, nl=False)
                said += entry.text
        task.latest = await follower.outcome(task.id)
    click.echo("" if said.endswith("\n") or not said else "\n", nl=False)


def _say_if_nobody_works(producer: "Producer") -> None:
    if not producer.workers():
        click.echo(
            f"No worker answers on {producer.address.shown}. Start one with `kc-worker worker`; "
            "the task waits.",
            err=True,
        )
