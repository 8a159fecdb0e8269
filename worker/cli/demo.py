"""`kc-worker demo`."""

import dataclasses
import json
import time
from collections.abc import Callable

import click
from rich.console import Console
from rich.markup import escape

from worker.cli import interrupt
from worker.cli.render import progress_line, readable_input, readable_output, shortened
from worker.local.stack import LocalStack, Serving
from worker.local.tour import Shown, run_tour
from worker.producer import Producer, Sent
from worker.redis_client import RedisAddress

_CONTEXT = 1024  # tokens a request: small, so that a two-page story is longer than it


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a task on stdout, nothing else.")
def demo(as_json: bool) -> None:
    """Real tasks through a real Redis, worker and llama.cpp server, all on this machine.

    Starts its own on free ports, whatever the settings say, and stops them at the end. Needs no
    Docker, GPU, account or download. Ctrl-C stops everything.
    """
    began = time.monotonic()
    # Waiting is shown on stderr, so that stdout can be piped.
    waiting = Console(stderr=True, quiet=as_json)
    out = Console(quiet=as_json, highlight=False, soft_wrap=True)
    with (
        waiting.status("Starting Redis, llama.cpp and a worker") as status,
        LocalStack(Serving(context=_CONTEXT)) as stack,
    ):
        ready_s = time.monotonic() - began
        out.print(
            f"[bold]Ready after {ready_s:.1f} s[/]: Redis {stack.redis.url}, "
            f"llama.cpp {stack.llama.url} with {stack.llama.model.stem}, one Celery worker\n"
        )
        shown = []
        with Producer(RedisAddress(stack.redis.url)) as producer:
            for answer in run_tour(producer, _updater(stack, status.update)):
                shown.append(answer)
                if as_json:
                    click.echo(json.dumps(dataclasses.asdict(answer), ensure_ascii=False))
                else:
                    _print(out, answer)
        status.update("Stopping")
    _print_total(out, shown, time.monotonic() - began)


def _updater(stack: LocalStack, show: Callable[[str], None]) -> Callable[[list[Sent]], None]:
    def update(running: list[Sent]) -> None:
        interrupt.check()
        stack.check()
        show(escape(progress_line(running)))

    return update


def _print(out: Console, answer: Shown) -> None:
    spent = [f"{answer.prompt_tokens} + {answer.completion_tokens} tokens"]
    if answer.ttft_s is not None:
        spent.append(f"first token {answer.ttft_s:.2f} s")
    spent += [f"{answer.tokens_per_s:.0f} tokens/s", f"{answer.wall_s:.2f} s in all"]
    out.print(f"[bold cyan]{answer.task}[/]  {escape(answer.title)}")
    out.print(f"  [dim]in [/]  {escape(shortened(readable_input(answer.input)))}")
    out.print(f"  [dim]out[/]  {escape(shortened(readable_output(answer.output), 400))}")
    out.print(f"  [dim]     {' · '.join(spent)}[/]\n")


def _print_total(out: Console, shown: list[Shown], total_s: float) -> None:
    prompt = sum(answer.prompt_tokens for answer in shown)
    completion = sum(answer.completion_tokens for answer in shown)
    out.print(
        f"[bold green]{len(shown)} tasks[/], {prompt:,} tokens read, {completion:,} written, "
        f"{total_s:.1f} s from start to stop. Nothing is left running."
    )
    out.print("Keep it running with [bold]kc-worker up[/]; see README.md for a producer in five lines.")
