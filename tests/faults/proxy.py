"""A TCP proxy that can go silent without closing anything: what a dropped route looks like from both ends."""

import asyncio
import contextlib
import threading
from typing import Self

from worker.local.child import HOST


class Proxy:
    """Forwards 127.0.0.1:`port` to another port; on a thread of its own."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._generation = 0
        self._dropped_before = 0
        self._dark = False
        self._links: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._listen())

    @property
    def url(self) -> str:
        """As a Redis address."""
        return f"redis://{HOST}:{self.port}/0"

    def drop_present(self) -> None:
        """Connections that exist now carry nothing any more and stay open; new ones work."""
        self._dropped_before = self._generation = self._generation + 1

    def go_dark(self) -> None:
        """Nothing passes, on any connection, until `lighten`; new ones are accepted and stay silent for good."""
        self._dark = True

    def lighten(self) -> None:
        """New connections work again; those of the dark stay dead."""
        self.drop_present()
        self._dark = False

    def close(self) -> None:
        """Close everything."""
        self._do(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        generation = self._generation
        try:
            there_reader, there_writer = await asyncio.open_connection(HOST, self._target_port)
            try:
                pumps = [
                    asyncio.ensure_future(self._pump(reader, there_writer, generation)),
                    asyncio.ensure_future(self._pump(there_reader, writer, generation)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                there_writer.close()
        except OSError:
            pass  # the target is away
        finally:
            with contextlib.suppress(RuntimeError):
                writer.close()
            self._links.discard(link)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, generation: int) -> None:
        while data := await source.read(65536):
            if self._dark or generation < self._dropped_before:
                # Say nothing more, whichever end hangs up.
                await asyncio.Event().wait()
            sink.write(data)
            await sink.drain()
