"""Waiting for messages without taking any: Redis says when a watched list changes (CLIENT TRACKING).

A script that finds the lists empty and a push that comes after it cannot miss each other: the server
remembers which keys the script read and sends one note when one of them changes. It needs two connections:
one that reads, and one that listens and hears of cancelled tasks too. (Redis 6 and later; where a proxy does
not pass it on, the caller is woken at intervals.)
"""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from worker.delivery import keys
from worker.redis_client import HEALTH_CHECK_INTERVAL_S, SOCKET_TIMEOUT_S, RedisAddress

logger = logging.getLogger(__name__)

_INVALIDATED = b"__redis__:invalidate"


@dataclass(slots=True)
class Listener:
    """Both connections.

    Attributes:
        reader: the client whose scripts' keys are watched.
        tracks: whether Redis tells of changes; else only of cancelled tasks.
    """

    reader: Redis
    tracks: bool
    _pubsub: PubSub

    async def next(self) -> str | None:
        """Wait for the next note: the id of a task that was cancelled, or None: a list changed.

        Raises:
            RedisError: the connection broke, or says nothing any more.
        """
        heard_at = time.monotonic()
        while True:
            message = await self._pubsub.get_message(timeout=HEALTH_CHECK_INTERVAL_S)
            if message is None:  # nothing, or nothing of interest
                if time.monotonic() - heard_at > SOCKET_TIMEOUT_S:
                    raise RedisConnectionError("The listening connection is silent.")
                await self._pubsub.ping()
                continue
            heard_at = time.monotonic()
            if message["type"] != "message":
                continue
            return None if message["channel"] == _INVALIDATED else bytes(message["data"]).decode()


@asynccontextmanager
async def listening(address: RedisAddress) -> AsyncIterator[Listener]:
    """Both connections, open; any error in them is raised, nothing reconnects by itself."""
    reader, ears = address.connect_once(), address.connect_once()
    pubsub = ears.pubsub(ignore_subscribe_messages=True)
    try:
        await pubsub.connect()  # type: ignore[no-untyped-call]
        connection: Any = pubsub.connection
        await connection.send_command("CLIENT", "ID")
        ears_id = await connection.read_response()
        await pubsub.subscribe(_INVALIDATED, keys.CANCEL_CHANNEL)
        try:
            await reader.client_tracking_on(clientid=ears_id, noloop=True)
            tracks = True
        except ResponseError as error:
            logger.warning("Queues are asked at intervals, Redis does not tell of changes: %s", error)
            tracks = False
        yield Listener(reader, tracks, pubsub)
    finally:
        await pubsub.aclose()  # type: ignore[no-untyped-call]
        await ears.aclose()
        await reader.aclose()
