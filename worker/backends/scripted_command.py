"""`python -m worker.backends.scripted`."""

import argparse
import asyncio

from worker.backends import scripted
from worker.backends.scripted_seen import Memory


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m worker.backends.scripted", description=scripted.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one and prints it")
    parser.add_argument("--kind", choices=["llamacpp", "llama-cpp-python", "vllm"], default="llamacpp")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds an answer takes")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of an answer")
    parser.add_argument("--slots", type=int, default=256, help="requests worked on at once")
    parser.add_argument("--context", type=int, default=4096, help="context length, tokens")
    parser.add_argument("--vision", type=int, default=0, help="1: it takes pictures")
    parser.add_argument("--chat-template", type=int, default=1, help="0: its model has none")
    parser.add_argument("--degrades-past", type=int, default=0, help="beyond so many at once all get slower")
    parser.add_argument("--keep", type=int, default=10_000, help="requests remembered")
    parser.add_argument("--bodies", type=int, default=1, help="0: they are remembered without their bodies")
    parser.add_argument("--record", default="", help="a file that gets a line at each beginning and end")
    given = parser.parse_args()

    async def serve() -> None:
        server = scripted.Scripted(
            kind=given.kind,
            latency_s=given.latency,
            tokens=given.tokens,
            slots=given.slots,
            degrades_past=given.degrades_past,
            context_length=given.context,
            vision=bool(given.vision),
            chat_template=bool(given.chat_template),
            memory=Memory(given.keep, bodies=bool(given.bodies), record=given.record),
        )
        await server.start(given.port, given.host)
        print(server.url, flush=True)
        await asyncio.Event().wait()

    try:
        import uvloop

        uvloop.run(serve())
    except KeyboardInterrupt:
        pass
