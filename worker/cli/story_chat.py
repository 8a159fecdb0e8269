"""The chat of `kc-worker story`."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self

import click

from worker.cli import interrupt, story_acts
from worker.cli.run import show_stream
from worker.contracts.story import StoryArguments
from worker.database.line import Key
from worker.database.stories import change, clear, find
from worker.errors import InvalidTask, TaskError
from worker.producer import Producer
from worker.settings import settings

_HELP = """\
/clear               forget all turns of this story
/rename NAME         give it a name
/system TEXT         the storyteller's instructions from the next turn on; without TEXT: none
/set temperature=0.8 max_tokens, temperature, top_k, top_p, min_p, seed, template …; alone it shows them,
                     and NAME=null takes one back
/list                all stories
/export FILE         Markdown where FILE ends in .md, else JSON
/import FILE         an export, or a chat_history.json; this story has to be empty
/quit                or Ctrl-D; Ctrl-C ends the answer that is being written, and the turn is forgotten
//…                  a prompt that begins with /"""


class _Over(Exception):
    """The chat is."""


class Chat:
    """One chat in one story: lines of standard input are prompts, or commands where they begin with /.

    Args:
        key: of the story.
        system: instructions for the first turn; None leaves those the story has.
        sampling: fields of `story.continue`.

    Raises:
        InvalidTask: one of these is wrong.
    """

    def __init__(self, key: Key, system: str | None, sampling: dict[str, Any]) -> None:
        self._key = key
        self._system = system
        self._sampling: dict[str, Any] = {}
        self._change(sampling)
        self._interactive = sys.stdin.isatty()
        self._failed = False
        self._database = story_acts.opened()
        chosen = settings()
        self._producer = Producer(chosen.redis.address, chosen.redis.result_ttl_s)
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: click.echo(_HELP),
            "clear": self._clear,
            "rename": self._rename,
            "system": self._instruct,
            "set": self._set,
            "list": lambda _: story_acts.show_list(self._database, key.owner, key),
            "export": self._export,
            "import": lambda rest: story_acts.import_file(self._database, _file(rest), key),
            "quit": self._quit,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.close()
        self._database.close()

    def run(self) -> int:
        """Chat until the input ends; exit status 1 where something failed."""
        if self._interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - lines can be edited, and called back
            self._greet()
        with contextlib.suppress(_Over):
            while True:
                self._hear(self._next())
        return int(self._failed)

    def _greet(self) -> None:
        story = self._database.read(lambda connection: find(connection, self._key))
        turns = story.turns if story else 0
        named = f" ({story.name})" if story and story.name else ""
        click.echo(f"Story {self._key.session!r}{named}, {turns:,} turns. /help shows what else can be said.")

    def _next(self) -> str:
        try:
            return input("> " if self._interactive else "").strip()
        except EOFError:
            click.echo("", nl=self._interactive)
            raise _Over from None
        except UnicodeDecodeError as error:
            raise InvalidTask(f"The input is not UTF-8 (byte {error.start}).") from None
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            interrupt.forget()
            click.echo()
            raise _Over from None

    def _hear(self, line: str) -> None:
        try:
            if line.startswith("/") and not line.startswith("//"):
                word, _, rest = line[1:].partition(" ")
                if word not in self._commands:
                    raise InvalidTask(
                        f"/{word} is no command.", "/help shows them; // begins a prompt with /."
                    )
                self._commands[word](rest.strip())
            elif line:
                self._tell(line[1:] if line.startswith("//") else line)
        except TaskError as error:
            self._failed = True
            click.echo(str(error), err=True)

    def _tell(self, prompt: str) -> None:
        task = self._producer.send("story.continue", self._arguments(prompt, self._sampling), "interactive")
        try:
            asyncio.run(_until_interrupted(show_stream(self._producer, task)))
        except KeyboardInterrupt:
            self._producer.cancel(task.id)
            if not self._interactive:
                raise
            interrupt.forget()
            click.echo("\n(Cancelled; this turn is forgotten.)", err=True)
            return
        if task.latest.failed:
            self._failed = True
            reason = (
                f"{task.latest.error_type}: {task.latest.error}" if task.latest.error_type else "Cancelled."
            )
            click.echo(reason, err=True)

    def _arguments(self, prompt: str, sampling: dict[str, Any]) -> dict[str, Any]:
        """Of the task.

        Raises:
            InvalidTask: one of them is wrong.
        """
        options = {"stream": True} | ({"tenant": self._key.owner} if self._key.owner else {})
        arguments = {**sampling, "session_id": self._key.session, "prompt": prompt, "options": options}
        if self._system is not None:
            arguments["system"] = self._system
        StoryArguments.parse(arguments)
        return arguments

    def _change(self, given: dict[str, Any]) -> None:
        changed = {name: value for name, value in {**self._sampling, **given}.items() if value is not None}
        self._arguments("…", changed)
        self._sampling = changed

    def _set(self, rest: str) -> None:
        self._change(_pairs(rest))
        click.echo(" ".join(f"{name}={json.dumps(value)}" for name, value in self._sampling.items()) or "-")

    def _clear(self, _: str) -> None:
        story_acts.alone(self._database, self._key, clear)
        click.echo("All turns are forgotten.")

    def _rename(self, rest: str) -> None:
        story_acts.alone(
            self._database, self._key, lambda connection, key: change(connection, key, name=rest)
        )

    def _instruct(self, rest: str) -> None:
        self._system = rest

    def _export(self, rest: str) -> None:
        file = _file(rest)
        story_acts.export_file(self._database, self._key, file, as_markdown=file.suffix == ".md")

    def _quit(self, _: str) -> None:
        raise _Over


async def _until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    """Hear a Ctrl-C also where Python ignores it, inside a finalizer."""

    async def hear() -> None:
        while True:
            await asyncio.sleep(0.1)
            interrupt.check()

    hearing = asyncio.create_task(hear())
    try:
        await work
    finally:
        hearing.cancel()


def _pairs(text: str) -> dict[str, Any]:
    """`a=1 b=x` as a dict; a value that is not JSON is text."""
    found: dict[str, Any] = {}
    for pair in text.split():
        name, separator, value = pair.partition("=")
        if not separator:
            raise InvalidTask(f"{pair!r} is not key=value.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _file(rest: str) -> Path:
    if not rest:
        raise InvalidTask("Which file?")
    return Path(rest).expanduser()
