"""`kc-worker`: commands, no logic. A command's module is imported when the command is used."""

import sys
from importlib import import_module

import click

from worker import __version__
from worker.cli import interrupt
from worker.errors import LocalError, ModelError, SettingsError, TaskError

#: command → module, and the line `--help` shows.
_COMMANDS = {
    "demo": ("worker.cli.demo", "Real tasks through Redis, a worker and llama.cpp on this machine."),
    "up": ("worker.cli.up", "Keep Redis, llama.cpp and a worker running on this machine."),
    "run": ("worker.cli.run", "Send one task, show its progress and its answer."),
    "batch": ("worker.cli.batch", "Files of requests into files of answers."),
    "posters": ("worker.cli.posters", "Describe and tag the posters of a list."),
    "blobs": ("worker.cli.blobs", "Inputs kept by content hash: sweep what is old."),
    "ocr": ("worker.cli.ocr", "Documents into Markdown and JSON."),
    "diagram": ("worker.cli.diagram", "Diagrams into tables of steps, and into each other."),
    "story": ("worker.cli.story", "Chat in the terminal; list, show, export and import stories."),
    "database": ("worker.cli.database", "What is remembered: its state, migrations, backup and restore."),
    "status": ("worker.cli.status", "What is reachable, and what there is to do."),
    "cancel": ("worker.cli.cancel", "Cancel tasks, waiting or running."),
    "dlq": ("worker.cli.dlq", "Dead letters: list, show, replay, purge."),
    "gateway": ("worker.cli.gateway", "Tasks and OpenAI's API over HTTP."),
    "worker": ("worker.cli.worker", "Start a worker (celery -A worker worker)."),
    "models": ("worker.cli.models", "Download models, list and check them."),
}


class _Lazy(click.Group):
    """Knows its commands by name and imports the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kc-worker")
def kc_worker() -> None:
    """Self-hosted LLM work, as tasks.

    \b
    kc-worker demo                                     see everything work
    kc-worker up                                       Redis, llama.cpp and a worker, until Ctrl-C
    kc-worker run llm.chat --text "Name three rivers"  one task, from another terminal
    kc-worker status                                   what is reachable

    Settings come from the environment and from .env in this folder.
    """  # noqa: D301  # click wants the character


def main() -> None:
    """Run the command line; exit 1: it did not work, 2: wrong options or settings, 130: interrupted."""
    interrupt.install()
    try:
        # Not click's own main: it would turn an interrupt into exit status 1.
        status = kc_worker(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SettingsError as error:
        click.echo(f"kc-worker: {error}", err=True)
        sys.exit(2)
    except (LocalError, ModelError, TaskError) as error:
        click.echo(f"kc-worker: {error}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
