"""`kc-worker dlq`."""

import dataclasses
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: Most characters of a task's arguments, or of a message that cannot be read, in `show`.
_SHOWN_CHARACTERS = 2000

_as_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, nothing else.")


@click.group()
def dlq() -> None:
    """Dead letters: tasks given up after too many retries or lost workers, and messages that are no tasks.

    \b
    kc-worker dlq list                       what there is and why
    kc-worker dlq show ID                    its history and arguments
    kc-worker dlq replay ID                  try it again
    kc-worker dlq purge --all --older-than 7d

    They are kept until they are replayed or purged.
    """  # noqa: D301  # click wants the character


@dlq.command("list")
@_as_json
def list_all(as_json: bool) -> int:
    """All dead letters, the oldest first."""
    from worker.cli.render import columns, shortened
    from worker.delivery.dead_letters import dead_letters

    async def summaries(client: "Redis") -> list[dict[str, Any]]:
        wanted = ("id", "task", "queue", "reason", "since", "deaths", "tries")
        return [{name: getattr(one, name) for name in wanted} async for one in dead_letters(client)]

    found = _ask(summaries)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    elif not found:
        click.echo("There are no dead letters.")
    else:
        header = ("ID", "TASK", "QUEUE", "SINCE", "DEATHS", "TRIES", "REASON")
        rows = [
            (one["id"], one["task"] or "?", one["queue"], one["since"], str(one["deaths"]), str(one["tries"]),
             shortened(one["reason"], 120))
            for one in found
        ]  # fmt: skip
        click.echo(columns([header, *rows]))
    return 0


@dlq.command()
@click.argument("task_id", metavar="ID")
@_as_json
def show(task_id: str, as_json: bool) -> int:
    """One dead letter: its reason, its history, its arguments."""
    from worker.delivery.dead_letters import dead_letter

    found = _ask(lambda client: dead_letter(client, task_id))
    if found is None:
        _say_unknown([task_id])
        return 1
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), ensure_ascii=False))
        return 0
    for label, value in (
        ("Task", f"{found.task or '?'} {found.id}"),
        ("Queue", found.queue),
        ("Since", found.since),
        ("Reason", found.reason),
        ("Workers lost", str(found.deaths)),
        ("Put off", f"{found.tries} times"),
    ):
        click.echo(f"{label:<14}{value}")
    for at, note in enumerate(found.history):
        click.echo(f"{'' if at else 'History':<14}{_line(note)}")
    if found.arguments is None:
        click.echo(f"{'Message':<14}{_cut(found.message)}")
    else:
        click.echo(f"{'Arguments':<14}{_cut(_json(found.arguments['kwargs']))}")
        if found.arguments["args"]:
            click.echo(f"{'':<14}{_cut(_json(found.arguments['args']))}")
    return 0


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID]…")
@click.option("--all", "everything", is_flag=True, help="All there are now.")
@_as_json
def replay(ids: tuple[str, ...], everything: bool, as_json: bool) -> int:
    """Try dead letters again: back to the end of their queues, their failures forgotten.

    A second time does nothing. Exit status 1: an ID is no dead letter.
    """
    from worker.delivery import dead_letters

    _check_choice(ids, everything)

    async def replayed(client: "Redis") -> list[str]:
        return await dead_letters.replay(client, ids or await dead_letters.ids_of(client))

    return _tell("replayed", ids, _ask(replayed), as_json)


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID]…")
@click.option("--all", "everything", is_flag=True, help="All there are now.")
@click.option(
    "--older-than",
    callback=lambda _context, _parameter, value: _age_s(value),
    metavar="AGE",
    help="With --all: only those dead for longer, as 90s, 30m, 12h or 7d.",
)
@_as_json
def purge(ids: tuple[str, ...], everything: bool, older_than: float, as_json: bool) -> int:
    """Delete dead letters for good; the stored outcomes of their tasks stay.

    Exit status 1: an ID is no dead letter.
    """
    from worker.delivery import dead_letters

    _check_choice(ids, everything)
    if older_than and ids:
        raise click.UsageError("--older-than goes with --all.")

    async def purged(client: "Redis") -> list[str]:
        return await dead_letters.purge(client, ids or await dead_letters.ids_of(client, older_than))

    return _tell("purged", ids, _ask(purged), as_json)


def _ask(question: Callable[["Redis"], Awaitable[T]]) -> T:
    from worker.delivery.asking import ask
    from worker.settings import settings

    return ask(settings().redis.address, question)


def _check_choice(ids: Sequence[str], everything: bool) -> None:
    if bool(ids) == everything:
        raise click.UsageError("Name dead letters by their IDs, or say --all.")


def _age_s(value: str | None) -> float:
    if value is None:
        return 0.0
    if (found := _AGE.fullmatch(value.strip())) is None:
        raise click.BadParameter(f"{value!r} is no age; write it as 90s, 30m, 12h or 7d.")
    return float(found[1]) * _SECONDS[found[2]]


def _tell(done: str, asked: Sequence[str], found: list[str], as_json: bool) -> int:
    unknown = [task_id for task_id in asked if task_id not in found]
    if as_json:
        click.echo(json.dumps({done: found, "unknown": unknown}, ensure_ascii=False))
    else:
        for task_id in found:
            click.echo(f"{task_id} {done}.")
        if not asked and not found:
            click.echo("There are no dead letters to be " + done + ".")
    _say_unknown(unknown)
    return 1 if unknown else 0


def _say_unknown(ids: Sequence[str]) -> None:
    for task_id in ids:
        click.echo(f"{task_id} is no dead letter (any more); `kc-worker dlq list` names them all.", err=True)


def _line(note: dict[str, Any]) -> str:
    """A line of history: when, what, and whatever else is known."""
    more = [f"{name}: {value}" for name, value in note.items() if name not in {"at", "event"}]
    return "  ".join([str(note.get("at", "")), str(note.get("event", "")), *more]).strip()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}… ({len(text):,} characters; all of them with --json)"
