"""The process that drives batches, kept running beside the gateway."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator

logger = logging.getLogger(__name__)

#: Seconds before it is started again: the first time, and the longest; and how long it may take to stop.
_AGAIN_S, _MOST_AGAIN_S, _STOP_S = 0.5, 30.0, 10.0


@contextlib.asynccontextmanager
async def kept_feeding() -> AsyncIterator[None]:
    """While this is entered there is one; it ends when this process does, however that ends."""
    keeping = asyncio.create_task(_keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _keep() -> None:
    wait_s, clock = _AGAIN_S, asyncio.get_running_loop().time
    while True:
        began = clock()
        try:
            ended = f"ended with status {await _run()}"
        except OSError as error:
            ended = f"cannot be started ({error})"
        if clock() - began > _MOST_AGAIN_S:
            wait_s = _AGAIN_S
        logger.error("What drives batches %s; starting it again in %g s.", ended, wait_s)
        await asyncio.sleep(wait_s)
        wait_s = min(_MOST_AGAIN_S, 2 * wait_s)


async def _run() -> int:
    """Start it, and wait until it ends; stop it where who waits is cancelled."""
    # It reads its standard input to the end, which comes when nobody holds the other side any more.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "batch", "feed", "--until-eof", stdin=asyncio.subprocess.PIPE
    )
    try:
        return await process.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        raise
