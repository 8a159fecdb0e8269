"""`kc-worker gateway`."""

import click


@click.group(invoke_without_command=True)
@click.option("--host", help="Address to listen on [GATEWAY_HOST].")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on [GATEWAY_PORT]; 0: a free one."
)
@click.pass_context
def gateway(context: click.Context, host: str | None, port: int | None) -> None:
    """Serve tasks over HTTP: any by its name, and OpenAI's API.

    \b
    kc-worker gateway
    curl localhost:8081/v1/tasks/text.keywords -d '{"text": "Rivers of Europe"}'
    OPENAI_BASE_URL=http://localhost:8081/v1 OPENAI_API_KEY=none python my_program.py
    """  # noqa: D301  # click wants the character
    if context.invoked_subcommand is None:
        _serve(host, port)


@gateway.command()
@click.argument("name")
@click.option("--requests", default=0, type=click.IntRange(min=0), help="Requests a minute [any number].")
@click.option("--tokens", default=0, type=click.IntRange(min=0), help="Tokens a minute [any number].")
@click.option("--in-flight", default=0, type=click.IntRange(min=0), help="Tasks at once [any number].")
def key(name: str, requests: int, tokens: int, in_flight: int) -> None:
    """Make an API key for NAME: the key itself, and the entry for GATEWAY_API_KEYS.

    Only its hash is in the entry: the key is shown this once.
    """
    from worker.delivery.sending import Limits
    from worker.gateway.keys import new_key

    try:
        new, entry = new_key(name, Limits(in_flight, requests, tokens))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    click.echo(new)
    click.echo(f"\nGATEWAY_API_KEYS={entry}", err=True)
    click.echo("(several entries are separated by commas)", err=True)


def _serve(host: str | None, port: int | None) -> None:
    import uvicorn

    from worker.gateway.app import create_app
    from worker.gateway.protocol import LimitedProtocol
    from worker.settings import settings

    chosen = settings()
    changes = {
        name: value for name, value in (("gateway_host", host), ("gateway_port", port)) if value is not None
    }
    chosen.gateway = chosen.gateway.model_copy(update=changes)
    group = chosen.gateway
    uvicorn.run(
        create_app(chosen),
        host=group.gateway_host,
        port=group.gateway_port,
        log_level="info",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        http=LimitedProtocol,
        ws="none",
    )
