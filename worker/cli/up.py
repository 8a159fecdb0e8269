"""`kc-worker up`."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from worker.local.stack import LocalStack

_REDIS_PORT, _LLM_PORT, _GATEWAY_PORT = 6379, 8000, 8081
_HOME = Path(".kc/up")


@click.command()
@click.option("--port-redis", type=click.IntRange(1, 65535), help="Port of Redis [6379, or a free one].")
@click.option("--port-llm", type=click.IntRange(1, 65535), help="Port of llama.cpp [8000, or a free one].")
@click.option(
    "--port-gateway", type=click.IntRange(1, 65535), help="Port of the gateway [8081, or a free one]."
)
@click.option("--model", help="GGUF file, or the name of one in MODELS_DIR/gguf [SmolLM2-135M-Instruct].")
@click.option(
    "--mmproj",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Projector with which a vision-language model sees (GGUF).",
)
@click.option("--slots", default=4, show_default=True, type=click.IntRange(1, 256), help="Requests at once.")
@click.option(
    "--context",
    default=2048,
    show_default=True,
    type=click.IntRange(256, 1_048_576),
    help="Tokens of prompt and answer, each request.",
)
@click.option("--no-worker", is_flag=True, help="Only Redis, llama.cpp and the gateway.")
def up(
    port_redis: int | None,
    port_llm: int | None,
    port_gateway: int | None,
    model: str | None,
    mmproj: Path | None,
    slots: int,
    context: int,
    no_worker: bool,
) -> None:
    """Keep Redis, llama.cpp, a worker and the gateway running until Ctrl-C, and say how to use them.

    Redis' data and the logs are kept in .kc/up of this folder.

    \b
    kc-worker up
    kc-worker up --model Qwen3-4B-Q4_K_M --slots 8 --context 8192
    kc-worker up --model Qwen3-VL-4B-Q4_K_M --mmproj models/gguf/mmproj-Qwen3-VL-4B.gguf
    """  # noqa: D301  # click wants the character
    from worker.cli import interrupt
    from worker.local.child import preferred_port
    from worker.local.llamacpp import find_model
    from worker.local.stack import LocalStack, Serving
    from worker.settings import settings

    chosen = settings()
    blobs = chosen.storage.blob_dir
    blobs = blobs if "://" in blobs else str(Path(blobs).resolve())
    stack = LocalStack(
        Serving(find_model(model, chosen.models.models_dir), mmproj, slots, context),
        redis_port=port_redis or preferred_port(_REDIS_PORT),
        llm_port=port_llm or preferred_port(_LLM_PORT),
        with_worker=not no_worker,
        worker_env={"BLOB_DIR": blobs, "DATABASE_URL": chosen.database.from_anywhere},
        gateway_port=port_gateway or preferred_port(_GATEWAY_PORT),
        gateway_env={
            "FILES_DIR": str(chosen.batch.files_dir.resolve()),
            "DATABASE_URL": chosen.database.from_anywhere,
        },
        home=_HOME,
    )
    click.echo("Starting …", err=True)
    # Ctrl-C is how it ends.
    with contextlib.suppress(KeyboardInterrupt), stack:
        click.echo(_instructions(stack, blobs))
        stack.watch(interrupt.check)
    click.echo("Stopped.", err=True)


def _instructions(stack: "LocalStack", blobs: str) -> str:
    worker = "A worker is running." if stack.worker else "Start a worker with: kc-worker worker"
    redis_url, gateway_url = stack.redis.url, stack.gateway.url if stack.gateway else ""
    return f"""\
# .env for other programs
REDIS_URL={redis_url}
LLM_BACKEND=llamacpp
LLM_SERVER_URL={stack.llama.url}
BLOB_DIR={blobs}

# A producer (pip install 'celery[redis]')
from celery import Celery
app = Celery(broker="{redis_url}", backend="{redis_url}")
messages = [{{"role": "user", "content": "Name three rivers."}}]
task = app.send_task("llm.chat", kwargs={{"messages": messages, "max_tokens": 40}}, queue="default")
print(task.get(timeout=60)["choices"][0]["message"]["content"])

# Anything that speaks OpenAI's API; every route: {gateway_url}/docs
OPENAI_BASE_URL={gateway_url}/v1
OPENAI_API_KEY=none

# {worker} Logs: {_HOME}/*/*.log. Ctrl-C stops everything."""
