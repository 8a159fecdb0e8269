"""`kc-worker story`."""

from pathlib import Path
from typing import Any

import click

from worker.cli.options import pairs

_FILE = click.Path(dir_okay=False, path_type=Path, allow_dash=True)


class _ChatByDefault(click.Group):
    """What is no command is the name of a story to chat in."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["chat"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            args = ["chat", *args]
        return super().resolve_command(ctx, args)


_session = click.argument("session")
_tenant = click.option("--tenant", default="", help="Whose stories; by default those of nobody.")


@click.group(cls=_ChatByDefault)
def story() -> None:
    """Chat in the terminal, in a story that is remembered.

    \b
    kc-worker story                              go on with the story "default"
    kc-worker story rivers                       with another one; it is made at its first turn
    kc-worker story chat rivers --set temperature=0.8 --system "You tell tales."
    echo "Once upon a time" | kc-worker story rivers
    kc-worker story export rivers rivers.md

    It sends `story.continue` to the workers; the other commands work on DATABASE_URL itself, which has to be
    the workers'.
    """  # noqa: D301  # click wants the character


@story.command()
@click.argument("session", default="default")
@click.option("--system", help="The storyteller's instructions, from now on.")
@click.option(
    "--set",
    "sampling",
    multiple=True,
    callback=pairs(),
    metavar="KEY=VALUE",
    help="temperature=0.8, seed=1 …",
)
@_tenant
def chat(session: str, system: str | None, sampling: dict[str, Any], tenant: str) -> int:
    """Chat in the story SESSION. /help shows what else can be said; Ctrl-C ends an answer, then the chat."""
    from worker.cli.story_chat import Chat
    from worker.database.line import Key

    with Chat(Key(tenant, session), system, sampling) as opened:
        return opened.run()


@story.command("list")
@_tenant
def list_stories(tenant: str) -> None:
    """The stories, the last one told first."""
    from worker.cli.story_acts import opened, show_list

    with opened() as database:
        show_list(database, tenant)


@story.command()
@_session
@_tenant
def show(session: str, tenant: str) -> None:
    """All that was said in SESSION, as Markdown."""
    from worker.cli.story_acts import export_file, opened
    from worker.database.line import Key

    with opened() as database:
        export_file(database, Key(tenant, session), None, as_markdown=True)


@story.command()
@_session
@click.argument("file", type=_FILE)
@_tenant
def export(session: str, file: Path, tenant: str) -> None:
    """Write SESSION into FILE: Markdown where it ends in .md, else JSON. - is standard output."""
    from worker.cli.story_acts import export_file, opened
    from worker.database.line import Key

    with opened() as database:
        to = None if str(file) == "-" else file
        export_file(database, Key(tenant, session), to, as_markdown=file.suffix == ".md")


@story.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("session", default="")
@click.option("--replace", is_flag=True, help="Instead of the turns SESSION has.")
@_tenant
def import_(file: Path, session: str, *, replace: bool, tenant: str) -> None:
    """Make SESSION of FILE: an export in JSON, or a chat_history.json, a list of {role, content, date?}.

    Without SESSION it gets the name in FILE, else the name of FILE.
    """
    from worker.cli.story_acts import import_file, opened
    from worker.database.line import Key

    with opened() as database:
        import_file(database, file, Key(tenant, session), replace=replace)


@story.command()
@_session
@_tenant
def clear(session: str, tenant: str) -> None:
    """Remove all turns of SESSION; its name and instructions stay."""
    from worker.cli.story_acts import alone, opened
    from worker.database.line import Key
    from worker.database.stories import clear as act

    with opened() as database:
        alone(database, Key(tenant, session), act)
    click.echo(f"{session} is empty.")


@story.command()
@_session
@_tenant
@click.confirmation_option(prompt="All that was said in it will be lost. Go on?")
def delete(session: str, tenant: str) -> None:
    """Remove SESSION."""
    from worker.cli.story_acts import alone, opened
    from worker.database.line import Key
    from worker.database.stories import delete as act

    with opened() as database:
        alone(database, Key(tenant, session), act)
    click.echo(f"{session} is gone.")


@story.command()
@_session
@click.argument("name")
@_tenant
def rename(session: str, name: str, tenant: str) -> None:
    """Give SESSION a NAME for people."""
    from worker.cli.story_acts import alone, opened
    from worker.database.line import Key
    from worker.database.stories import change

    with opened() as database:
        alone(database, Key(tenant, session), lambda connection, key: change(connection, key, name=name))
    click.echo(f"{session}: {name}")
