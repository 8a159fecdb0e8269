"""Following tasks from outside: their outcomes, and what they say while they say it.

One connection hears of all of them; what it hears only wakes who waits, and who is woken reads for itself. So
nothing depends on a note that was missed while Redis was away. All readers of one stream in a process share
one copy of it: a slow one holds nobody up.

    async with Follower(RedisAddress("redis://localhost:6379/0")) as follower:
        async for entry in follower.stream(task_id):
            print(entry.text, end="")
        outcome = await follower.outcome(task_id)
"""

import asyncio
import contextlib
import json
import logging
import time
from bisect import bisect_right
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from worker.delivery import keys
from worker.delivery.ledger import Json, retry_wait_s, stubbornly
from worker.delivery.states import Update, read_state
from worker.redis_client import HEALTH_CHECK_INTERVAL_S, SOCKET_TIMEOUT_S, RedisAddress

logger = logging.getLogger(__name__)

#: Who waits looks so often even if nothing is heard, seconds.
_LOOK_S = 5.0
#: Entries read at once.
_PAGE = 1000
#: Named by no task: a connection hears something only while it is subscribed to something.
_NOBODY = "kc:stream:"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a task's stream.

    Attributes:
        id: of the entry in Redis; reading goes on after it. "" where the task ended without a stream.
        type: `chunk`, or how the task ended: `done` or `error`.
        text: new text, or why the task did not succeed.
        seq: counts from 0; where it is 0 again the task began anew, and what came before is void.
        index: which choice the text belongs to.
        delta: what else came with it, as OpenAI's `delta` has it.
    """

    id: str
    type: Literal["chunk", "done", "error"]
    text: str
    seq: int
    index: int = 0
    delta: Json = field(default_factory=dict)

    @property
    def ends(self) -> bool:
        """Whether nothing comes after it."""
        return self.type != "chunk"


class Follower:
    """Use it as a context manager, on one event loop.

    Args:
        address: where the tasks were sent.
        max_connections: to Redis.
    """

    def __init__(self, address: RedisAddress, max_connections: int = 32) -> None:
        self._client = address.connect(max_connections)
        self._pubsub: PubSub | None = None
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._tails: dict[str, _Tail] = {}
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self._client.aclose()

    async def state(self, task_id: str) -> Update:
        """Where a task is now; PENDING where nothing is known of it."""
        return read_state(await self._client.get(keys.RESULT % task_id))

    async def outcome(self, task_id: str) -> Update:
        """Wait until a task has ended, and while Redis is away."""
        async with self._bell(task_id) as bell:
            while True:
                bell.clear()
                if (update := await stubbornly(lambda: self.state(task_id))).ended:
                    return update
                await _rung(bell)

    async def stream(self, task_id: str, after: str = "0-0") -> AsyncIterator[Entry]:
        """What a task says, from the entry that comes after `after` to its end.

        It waits for what is to come, and while Redis is away.

        Raises:
            ValueError: `after` is no id of an entry.
        """
        position = position_of(after)
        tail = self._tails.get(task_id)
        if tail is None:
            tail = self._tails[task_id] = _Tail()
            tail.reading = asyncio.create_task(self._read(task_id, tail))
        tail.readers += 1
        try:
            at = bisect_right(tail.positions, position)
            while True:
                while at < len(tail.entries):
                    entry, at = tail.entries[at], at + 1
                    if tail.positions[at - 1] > position:
                        yield entry
                grown = tail.grown
                if tail.reading is not None and tail.reading.done():
                    tail.reading.result()  # or why it could not be read on
                    return
                await grown.wait()
        finally:
            tail.readers -= 1
            if not tail.readers and tail.reading is not None:
                tail.reading.cancel()
                if self._tails.get(task_id) is tail:
                    del self._tails[task_id]

    async def _read(self, task_id: str, tail: "_Tail") -> None:
        """Read one stream to its end, for all who follow it."""
        last = "-"
        try:
            async with self._bell(task_id) as bell:
                while True:
                    bell.clear()
                    stored, found = await stubbornly(lambda: self._look(task_id, last))  # noqa: B023
                    for entry_id, fields in found:
                        last = f"({entry_id.decode()}"
                        tail.add(_entry(entry_id.decode(), fields))
                    if tail.ended:
                        return
                    if not found and (update := read_state(stored)).ended:
                        tail.add(_end_of(update, len(tail.entries)))
                        return
                    tail.tell()
                    if len(found) < _PAGE:
                        await _rung(bell)
        finally:
            tail.tell()

    async def _look(self, task_id: str, after: str) -> tuple[bytes | None, list[Any]]:
        """The state first: if it is an outcome, the end of the stream is there too."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.get(keys.RESULT % task_id)
        pipeline.xrange(keys.STREAM % task_id, after, "+", count=_PAGE)
        stored, found = await pipeline.execute()
        return stored, found

    @contextlib.asynccontextmanager
    async def _bell(self, task_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever there is news of a task."""
        bell = asyncio.Event()
        bells = self._bells.setdefault(task_id, set())
        bells.add(bell)
        try:
            if len(bells) == 1:
                await self._subscribe(task_id)
            yield bell
        finally:
            bells.discard(bell)
            if not bells:
                del self._bells[task_id]
                await self._unsubscribe(task_id)

    async def _subscribe(self, task_id: str) -> None:
        if self._pubsub is not None:
            with contextlib.suppress(RedisError, OSError):  # who listens begins again, with all of them
                await self._pubsub.subscribe(*_channels(task_id))

    async def _unsubscribe(self, task_id: str) -> None:
        if self._pubsub is not None:
            with contextlib.suppress(RedisError, OSError):
                await self._pubsub.unsubscribe(*_channels(task_id))

    async def _listen(self) -> None:
        """Ring for what is heard; begin again whenever Redis was away, and ring for all of them then."""
        failures = 0
        while True:
            pubsub = self._client.pubsub()
            try:
                await pubsub.subscribe(_NOBODY)
                self._pubsub = pubsub  # connected: from now on who comes subscribes by himself
                failures = 0
                for task_id in list(self._bells):
                    await self._subscribe(task_id)
                async for channel in _heard(pubsub):
                    self._ring(channel.removeprefix(_RESULT).removeprefix(_NOBODY))
            except (RedisError, OSError) as error:
                failures += 1
                if failures == 1:
                    logger.warning("Redis is away (%s); trying again.", error)
            finally:
                self._pubsub = None
                await pubsub.aclose()  # type: ignore[no-untyped-call]
            await asyncio.sleep(retry_wait_s(failures))

    def _ring(self, task_id: str) -> None:
        for bell in self._bells.get(task_id, ()):
            bell.set()


class _Tail:
    """A stream as far as it was read.

    Attributes:
        entries, positions: in order, and where each stands in Redis.
        grown: set, and replaced, when there is more.
        readers: who follow it here.
        reading: what reads it.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.positions: list[tuple[int, int]] = []
        self.grown = asyncio.Event()
        self.readers = 0
        self.reading: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether it is whole."""
        return bool(self.entries) and self.entries[-1].ends

    def add(self, entry: Entry) -> None:
        """One more."""
        self.entries.append(entry)
        self.positions.append(position_of(entry.id) if entry.id else (2**64, 0))

    def tell(self) -> None:
        """Wake all readers."""
        self.grown.set()
        self.grown = asyncio.Event()


async def _heard(pubsub: PubSub) -> AsyncIterator[str]:
    """Names of the channels on which something was said, a confirmed subscription included.

    Raises:
        RedisError: the connection broke, or says nothing any more.
    """
    heard_at = time.monotonic()
    while True:
        message = await pubsub.get_message(timeout=HEALTH_CHECK_INTERVAL_S)
        if message is None:
            if time.monotonic() - heard_at > SOCKET_TIMEOUT_S:
                raise RedisConnectionError("The listening connection is silent.")
            await pubsub.ping()
            continue
        heard_at = time.monotonic()
        if message["type"] in {"message", "subscribe"}:
            yield message["channel"].decode()


async def _rung(bell: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_S):
            await bell.wait()


_RESULT = keys.RESULT % ""


def _channels(task_id: str) -> tuple[str, str]:
    return keys.RESULT % task_id, keys.STREAM % task_id


def position_of(entry_id: str) -> tuple[int, int]:
    """Where the entry of an id stands.

    Raises:
        ValueError: it is no id of an entry.
    """
    milliseconds, _, number = entry_id.partition("-")
    try:
        return int(milliseconds), int(number or 0)
    except ValueError:
        raise ValueError(f"{entry_id!r} is not the id of an entry, as 1700000000000-0 is") from None


def _entry(entry_id: str, fields: dict[bytes, bytes]) -> Entry:
    said: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items()}
    return Entry(
        entry_id,
        said["type"],
        said["text"],
        int(said["seq"]),
        int(said.get("index", 0)),
        json.loads(said.get("delta", "{}")),
    )


def _end_of(update: Update, seq: int) -> Entry:
    """The end of a task that has no stream, or none any more."""
    if update.failed:
        reason = f"{update.error_type}: {update.error}" if update.error_type else "Cancelled."
        return Entry("", "error", reason, seq)
    return Entry("", "done", "", seq)
