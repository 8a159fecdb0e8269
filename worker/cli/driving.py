"""A run of lines through the queue, as a command does it: with progress, until it is done or to stop."""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import uuid

    from redis.asyncio import Redis

    from worker.batch.answers import Sink
    from worker.batch.lines import Source
    from worker.batch.running import Run
    from worker.cli.batch_progress import BatchProgress
    from worker.settings import Settings

#: Seconds that cancelling what is under way may take.
_LET_GO_S = 15.0
_WAIT_S = 0.5
#: Seconds after which it is said that nobody works.
_NO_WORKER_AFTER_S = 5.0
#: Whose the tasks are: a name that no key of a gateway has.
_OWNER = ":shell"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done.

    Attributes:
        batch: its id.
        attempt: times it was stopped before.
        source: of its lines.
        lines: how many there are.
        unit: what they are, in the plural.
        queue: where their tasks wait.
        in_flight: of them at once; None: BATCH_IN_FLIGHT.
    """

    batch: "uuid.UUID"
    attempt: int
    source: "Source"
    lines: int
    unit: str
    queue: str
    in_flight: int | None


async def drive(
    chosen: "Settings",
    job: Job,
    answers: "Sink",
    on_stop: Callable[[], object],
    former: Job | None = None,
) -> bool:
    """Do it; whether all is done, or Ctrl-C or SIGTERM stopped it.

    Args:
        chosen: the settings.
        job: what to do.
        answers: where the answers go.
        on_stop: called before what is under way is cancelled: the next attempt sends it anew.
        former: its tasks, which nobody wants any more, are cancelled first; None: there is none.

    Raises:
        LocalError: Redis is not there.
    """
    from worker.batch.running import Run
    from worker.cli.batch_progress import BatchProgress
    from worker.delivery.feeding import Feed
    from worker.errors import LocalError

    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    in_flight = job.in_flight
    if in_flight is None and isinstance(chosen.batch.batch_in_flight, int):
        in_flight = chosen.batch.batch_in_flight
    async with chosen.redis.address.connect(8) as client:
        if reason := await chosen.redis.address.ping(5):
            raise LocalError(f"{reason}. Start one with `kc-worker up`, or correct REDIS_URL.")

        def run(one: Job) -> Run:
            feed = Feed(client, one.batch.hex, _OWNER, chosen.redis.result_ttl_s, one.queue)
            return Run(one.batch, one.source, answers, feed, attempt=one.attempt, in_flight=in_flight)

        if former is not None:
            await run(former).forsake()
        running = run(job)
        with BatchProgress(job.lines, job.unit, answers, running) as progress:
            watching = asyncio.create_task(_say_if_nobody_works(client, progress))
            whole = await _step(running, progress, stopping)
            watching.cancel()
            if not whole:
                on_stop()
                progress.say("Stopping: cancelling what is under way …")
                await _let_go(running)
    return whole


async def _say_if_nobody_works(client: "Redis", progress: "BatchProgress") -> None:
    from redis.exceptions import RedisError

    from worker.delivery.truth import look

    await asyncio.sleep(_NO_WORKER_AFTER_S)
    with contextlib.suppress(RedisError, OSError):
        if not (await look(client)).workers:
            progress.say("No worker answers. Start one with `kc-worker worker`; the work waits.")


async def _step(running: "Run", progress: "BatchProgress", stopping: asyncio.Event) -> bool:
    """Go on until all is done, or it is to stop; whether all is done."""

    async def steps() -> None:
        while await running.step(_WAIT_S):
            progress.show()

    going, stopped = asyncio.ensure_future(steps()), asyncio.ensure_future(stopping.wait())
    await asyncio.wait((going, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not going.done():
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        return False
    going.result()
    progress.show()
    return True


async def _let_go(running: "Run") -> None:
    try:
        async with asyncio.timeout(_LET_GO_S):
            await running.let_go()
    except TimeoutError:
        click.echo("Redis does not answer: what is under way may still be done.", err=True)
