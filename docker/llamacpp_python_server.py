"""llama-cpp-python's server as its container runs it, with the settings of `.env.sample`.

What it adds to `python -m llama_cpp.server`:

- MODEL_PATH, N_CTX, N_GPU_LAYERS, EMBEDDING, HOST, PORT and LLM_API_KEY mean what they mean for llama.cpp's
  own server; every other setting of llama-cpp-python is read from the environment under its own name.
- `GET /health` → `{"status": "ok", "n_ctx": tokens, "model": name}`. It waits for no generation, as
  `/v1/models` does.
- With EMBEDDING an input gives one vector (mean pooling), as everywhere; else it would be one a token.
- `logits_all` is off (slow), and so is `interrupt_requests` (a new request would cut a running stream short).
- A client that closes its connection ends its generation, streamed or not: without that a whole answer nobody
  waits for any more is generated to its end, and holds the model's lock until then.
- What is wrong with a setting or the model is said in one line.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

_DEFAULTS = {"MODEL_PATH": "/models/model.gguf", "HOST": "0.0.0.0", "PORT": "8000"}  # noqa: S104  # a container
_MODEL_DEFAULTS = {"N_CTX": "4096", "N_GPU_LAYERS": "0", "EMBEDDING": "false", "VERBOSE": "false"}
#: Tokens of one embedding input: it must fit one batch, which takes tokens x vocabulary x 4 bytes.
_EMBEDDING_BATCH = 2048
_GGUF_MAGIC = b"GGUF"
#: Seconds running requests get to finish after SIGTERM; the compose file kills after 30.
_GRACE_S = 20


def main() -> None:
    """Load the model and serve until SIGTERM."""
    _read_environment()
    if "MMPROJ_PATH" in os.environ:
        _fail("MMPROJ_PATH: this server shows no pictures to a model. Set LLAMACPP_SERVER=llama-server.")
    model = _model_file(Path(os.environ["MODEL_PATH"]))
    # Late: a wrong MODEL_PATH is said before half a second of imports.
    import uvicorn

    app, host, port = _create_app(model)
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, timeout_graceful_shutdown=_GRACE_S))
    # uvicorn raises the signal again once it is done; threads that still generate must not hold up the exit.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    server.run()


def _read_environment() -> None:
    """Fill in defaults. An empty variable is one that is not set: Compose passes those on as empty."""
    for name, value in list(os.environ.items()):
        if not value:
            del os.environ[name]
    for name, value in (_DEFAULTS | _MODEL_DEFAULTS).items():
        os.environ.setdefault(name, value)
    # Waiting threads sleep instead of spinning: several times faster where others use the cores too.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _model_file(path: Path) -> Path:
    """The model, looked at before llama.cpp does: its own message is a traceback."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except FileNotFoundError:
        _fail(f"MODEL_PATH: there is no file {path}. Put a GGUF file there, or name one that is there.")
    except IsADirectoryError:
        _fail(f"MODEL_PATH: {path} is a folder. Name the GGUF file in it.")
    except PermissionError:
        _fail(
            f"MODEL_PATH: {path} may not be read by user {os.getuid()}. Change its permissions (chmod a+r)."
        )
    if magic != _GGUF_MAGIC:
        _fail(f"MODEL_PATH: {path} is not a GGUF file. llama.cpp reads no other.")
    return path


def _create_app(model: Path) -> tuple[Any, str, int]:
    """The server's app with the model loaded, and where it is to listen."""
    from llama_cpp.server import app as server
    from llama_cpp.server.settings import Settings
    from pydantic import ValidationError

    try:
        settings = Settings(
            model=str(model),
            model_alias=os.environ.get("MODEL_ALIAS", model.resolve().stem),
            logits_all=False,
            interrupt_requests=False,
            api_key=os.environ.get("LLM_API_KEY"),
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        name = ".".join(str(part) for part in wrong["loc"]).upper()
        _fail(f"{name}: {wrong['msg']} (it is {wrong['input']!r}).")
    if settings.embedding:
        settings.n_batch = settings.n_ubatch = max(settings.n_batch, min(settings.n_ctx, _EMBEDDING_BATCH))
    _adapt_llama(pooling=settings.embedding)
    try:
        app = server.create_app(settings=settings)
    except ValueError as error:
        _fail(
            f"llama.cpp cannot load {model}: {error}. The file is damaged, unknown to this version "
            "or larger than the memory. VERBOSE=true shows llama.cpp's own messages."
        )
    page = {"status": "ok", "n_ctx": _context_length(server), "model": settings.model_alias}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return page

    app.add_middleware(_WatchClients)
    return app, settings.host, settings.port


def _adapt_llama(*, pooling: bool) -> None:
    """What the server has no setting for, only its `Llama` has (llama-cpp-python 0.3.36)."""
    import llama_cpp

    class AdaptedLlama(llama_cpp.Llama):  # type: ignore[misc]  # no types where this file is checked
        def __init__(self, **options: Any) -> None:
            if pooling:
                options["pooling_type"] = llama_cpp.LLAMA_POOLING_TYPE_MEAN
            super().__init__(**options)

        def generate(self, *arguments: Any, **options: Any) -> Iterator[int]:
            gone = _client_gone.get()
            for token in super().generate(*arguments, **options):
                if gone is not None and gone.is_set():
                    return
                yield token

    llama_cpp.Llama = AdaptedLlama


#: Of the request being answered; the server hands the context on to the thread that generates.
_client_gone: ContextVar[threading.Event | None] = ContextVar("client_gone", default=None)

_Receive = Callable[[], Awaitable[Any]]


class _WatchClients:
    """ASGI middleware that notices a closed connection while the answer is being made."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: _Receive, send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        gone = threading.Event()
        messages: asyncio.Queue[Any] = asyncio.Queue()

        async def watch() -> None:
            while not gone.is_set():
                message = await receive()
                if message["type"] == "http.disconnect":
                    gone.set()
                messages.put_nowait(message)

        async def next_message() -> Any:
            # Once the client is gone there is one answer, however often it is asked.
            return {"type": "http.disconnect"} if gone.is_set() else await messages.get()

        _client_gone.set(gone)
        watcher = asyncio.create_task(watch())
        try:
            await self._app(scope, next_message, send)
        finally:
            watcher.cancel()


def _context_length(server: Any) -> int:
    """Tokens of context the loaded model really has. Nobody else holds it yet, so no lock is needed."""
    return int(server._llama_proxy().n_ctx())  # noqa: SLF001  # there is no public way past the lock


def _leave(*_: object) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _fail(message: str) -> NoReturn:
    sys.exit(f"llama-cpp-python: {message}")


if __name__ == "__main__":
    main()
