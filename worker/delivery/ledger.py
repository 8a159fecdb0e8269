"""Every change delivery makes in Redis, each one script: it happens as a whole or not at all."""

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.delivery import keys

Mark = Literal["", "done", "dead"]
Json = dict[str, Any]
T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Seconds between attempts while Redis is away: the first wait, and the longest.
_RETRY_S, _MOST_RETRY_S = 0.2, 3.0
#: Results may be long: as many as this travel together.
_STATES_AT_ONCE = 64
#: Scripts that bring new work.
_NEW_WORK = frozenset({"send", "feed"})


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message in the hands of this process.

    Attributes:
        token: names this delivery; a later one of the same task has a higher number.
        task_id: Celery's task id.
        queue: the queue it came from.
        raw: the message.
        mark: "" to run it, "done" where its task has an outcome already (a chord may not know), "dead" where
            it had too many deliveries without one.
        deaths: workers that died with it.
        tries: times it was put off to be tried again.
        waited_s: seconds since it was first taken from its queue.
    """

    token: str
    task_id: str
    queue: str
    raw: bytes
    mark: Mark
    deaths: int
    tries: int
    waited_s: float


@dataclass(frozen=True, slots=True)
class Taken:
    """What one visit to the queues brought.

    Attributes:
        deliveries: the messages.
        more: whether there was more to take.
        now_s: Redis' clock, Unix seconds.
        due_in_s: seconds until the next delayed message is due; None where there is none.
    """

    deliveries: list[Delivery]
    more: bool
    now_s: float
    due_in_s: float | None


@dataclass(frozen=True, slots=True)
class Suspects:
    """What a worker has in flight of messages that other workers died with.

    Attributes:
        in_flight: how many.
        worst: most deaths of one of them.
        breadth: how many messages it may have at all.
    """

    in_flight: int
    worst: int
    breadth: int


class Ledger:
    """The scripts on one client. Every method raises redis-py's errors.

    Args:
        client: connected to the Redis of the broker.
        owner: names this process.
        lease_s: seconds a delivery stays this process's without being renewed.
        max_deliveries: workers a task may cost before it is a dead letter.
    """

    def __init__(self, client: Redis, owner: str = "", lease_s: float = 60, max_deliveries: int = 5) -> None:
        self.client = client
        self._owner = owner
        self._lease_ms = round(lease_s * 1000)
        self._max_deliveries = max_deliveries
        self._states, self._pieces = _Convoy(self._run, "store"), _Convoy(self._run, "stream")
        self._scripts = {name: client.register_script(source) for name, source in _sources().items()}

    async def reserve(
        self, lanes: Sequence[Sequence[str]], wanted: int, spare: int, suspects: Suspects
    ) -> Taken:
        """Take up to `wanted` messages.

        Args:
            lanes: queues by lane, the most urgent lane first.
            wanted: most messages.
            spare: of those, places the last lane has to leave free.
            suspects: of this worker now.
        """
        lists = [name for lane in lanes for queue in lane for name in keys.lists_of(queue)]
        lists += keys.OTHER_WORK
        shape = json.dumps([*map(len, lanes), len(keys.PRIORITY_SUFFIXES)])
        now, due, more, found = await self._run(
            "reserve", lists, self._owner, self._lease_ms, wanted, shape, spare, self._max_deliveries,
            suspects.in_flight, suspects.worst, suspects.breadth,
        )  # fmt: skip
        now_ms, due_ms = int(now), float(due)
        return Taken(
            [_delivery(row, now_ms) for row in found],
            bool(more),
            now_ms / 1000,
            max(0.0, (due_ms - now_ms) / 1000) if due_ms else None,
        )

    async def acknowledge(self, tokens: Sequence[str]) -> int:
        """End deliveries that are over; returns how many were still held."""
        return int(await self._run("acknowledge", [], *tokens))

    async def give_back(
        self, tokens: Sequence[str], note: Json | None = None, *, counts: bool = False
    ) -> int:
        """Put messages back in front of their queues; returns how many were still held.

        Args:
            tokens: of their deliveries.
            note: for their histories.
            counts: whether it counts as a delivery without an outcome, as if the worker had died.
        """
        line = json.dumps(note) if note else ""
        return int(await self._run("give_back", [], line, int(counts), *tokens))

    async def defer(self, token: str, delay_s: float, note: Json) -> bool:
        """Try a task again in `delay_s` seconds; whether it was still held."""
        return bool(await self._run("defer", [], token, round(delay_s * 1000), json.dumps(note)))

    async def bury(self, token: str, reason: str, outcome: str = "", ttl_s: int = 0) -> bool:
        """Keep a message as a dead letter, and store its task's outcome; whether it was still held."""
        return bool(await self._run("bury", [], token, reason, outcome, ttl_s))

    async def renew(
        self, tokens: Sequence[str], report: Json, report_ttl_s: float
    ) -> tuple[set[str], set[str]]:
        """Renew leases and leave a report.

        Returns:
            The tokens others have taken over, and those whose tasks are cancelled.
        """
        lost, cancelled = await self._run(
            "renew", [], self._owner, self._lease_ms, json.dumps(report), round(report_ttl_s * 1000), *tokens
        )
        return {token.decode() for token in lost}, {token.decode() for token in cancelled}

    async def reclaim(self, known: Sequence[str]) -> int:
        """Put back what this process was given without hearing of it; returns how many."""
        return int(await self._run("reclaim", [], self._owner, *known))

    async def recover(self, pause_s: float, grace_s: float, most: int = 500) -> int:
        """Take back what dead workers held; see `lua/recover.lua`."""
        return int(await self._run("recover", [], round(pause_s * 1000), round(grace_s * 1000), most))

    async def store(self, task_id: str, token: str, value: str, ttl_s: int) -> int:
        """Store a task's state: 1 stored, 0 it has its outcome, -1 another delivery runs it."""
        return await self._states.send((value, ttl_s, task_id, token))

    async def stream(self, task_id: str, token: str, entries: Sequence[Mapping[str, str]], ttl_s: int) -> int:
        """Add entries to a task's stream: 1 added, 0 it has its outcome, -1 another delivery runs it."""
        flat = [[part for item in entry.items() for part in item] for entry in entries]
        return await self._pieces.send((task_id, token, ttl_s, json.dumps(flat)))

    async def cancel(self, task_id: str, value: str, ttl_s: int) -> str:
        """Cancel a task; "running", "waiting", or the outcome it has already."""
        where = await self._run("cancel", [keys.RESULT % task_id], value, ttl_s, task_id)
        return str(where.decode())

    async def replay(self, task_id: str) -> bool:
        """Put a dead letter back in its queue; whether there was one."""
        return bool(await self._run("replay", [], task_id))

    async def once(self, name: str, task_id: str, asked: str, ttl_s: int) -> tuple[str, bytes]:
        """Who does a piece of work, as `lua/once.lua` says; and its outcome where it is done."""
        said = await self._run("once", [name], task_id, asked, ttl_s)
        return said[0].decode(), said[1] if len(said) > 1 else b""

    async def send(self, queue: str, *arguments: str | int) -> tuple[str, list[int]]:
        """Put a task in a queue, as `lua/send.lua` says."""
        said, *numbers = await self._run("send", keys.lists_of(queue), *arguments)
        return said.decode(), [int(number) for number in numbers]

    async def feed(
        self, queue: str, tasks: Sequence[tuple[str, str, str]], ttl_s: int, *, again: bool
    ) -> list[int]:
        """Put a batch's tasks (id, message, what is to be known) in a queue, as `lua/feed.lua` says."""
        flat = [part for task in tasks for part in task]
        return list(await self._run("feed", keys.lists_of(queue)[:1], "1" if again else "", ttl_s, *flat))

    async def settle(self, ids: Sequence[str], ttl_s: int) -> None:
        """Keep no more of tasks than that they are over, as `lua/settle.lua` says."""
        await self._run("settle", [], ttl_s, *ids)

    async def leave(self) -> None:
        """This worker is no more."""
        await self.client.hdel(keys.WORKERS, self._owner)

    async def _run(self, name: str, names: Sequence[str], *arguments: str | int) -> Any:
        try:
            return await self._scripts[name](keys=list(names), args=list(arguments))
        except (RedisConnectionError, RedisTimeoutError):
            # The idle ones are as dead as this one: each would take its own timeout to say so.
            await self.client.connection_pool.disconnect(inuse_connections=False)
            raise


class _Convoy:
    """Sends what comes while others are on their way together, in one call of a script.

    Args:
        run: calls a script: its name, its keys and its arguments.
        name: of the script; it answers with one number for each of those sent.
    """

    def __init__(self, run: Callable[..., Awaitable[Any]], name: str) -> None:
        self._run, self._name = run, name
        self._waiting: list[tuple[tuple[str | int, ...], asyncio.Future[int]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def send(self, arguments: tuple[str | int, ...]) -> int:
        """The script's answer for these arguments."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((arguments, answer))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        return await answer

    async def _send(self) -> None:
        while self._waiting:
            batch = self._waiting[:_STATES_AT_ONCE]
            del self._waiting[:_STATES_AT_ONCE]
            try:
                codes = await self._run(self._name, [], *(part for sent, _ in batch for part in sent))
            except (RedisError, OSError) as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for (_, answer), code in zip(batch, codes, strict=True):
                    if not answer.done():
                        answer.set_result(int(code))


async def persist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask Redis until it answers: what became of a task is held until it is written."""

    def tell(failures: int, error: Exception) -> None:
        if failures in {1, 10} or failures % 100 == 0:
            logger.warning("An outcome is held until Redis takes it (attempt %d): %s", failures, error)

    return await stubbornly(ask, tell)


def _tell_once(failures: int, error: Exception) -> None:
    if failures == 10:
        logger.warning("Redis is away (%s); trying again.", error)


async def stubbornly(
    ask: Callable[[], Awaitable[T]], tell: Callable[[int, Exception], None] = _tell_once
) -> T:
    """Ask Redis until it answers; `tell` is called with each failure and how many there were."""
    failures = 0
    while True:
        try:
            return await ask()
        except (RedisError, OSError) as error:
            failures += 1
            tell(failures, error)
        await asyncio.sleep(retry_wait_s(failures))


def retry_wait_s(failures: int) -> float:
    """Seconds before the next attempt: doubling, and random so that workers do not come back together."""
    return random.uniform(0.5, 1) * min(_MOST_RETRY_S, _RETRY_S * 2.0 ** min(failures, 10))  # noqa: S311


@cache
def _sources() -> dict[str, str]:
    folder = files(__package__) / "lua"
    common = (folder / "common.lua").read_text()
    always = (folder / "always.lua").read_text()
    names = (
        "reserve", "acknowledge", "give_back", "defer", "bury", "renew", "recover", "store", "cancel",
        "replay", "once", "reclaim", "stream", "send", "feed", "settle",
    )  # fmt: skip
    return {
        name: ("" if name in _NEW_WORK else always) + common + (folder / f"{name}.lua").read_text()
        for name in names
    }


def _delivery(row: list[Any], now_ms: int) -> Delivery:
    token, task_id, list_name, raw, mark, deaths, tries, first = row
    return Delivery(
        token.decode(),
        task_id.decode(errors="replace"),
        keys.queue_of(list_name.decode()),
        raw,
        mark.decode(),
        deaths,
        tries,
        max(0.0, (now_ms - int(first)) / 1000),
    )
