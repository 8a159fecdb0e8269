"""Which blobs the messages in Redis refer to: waiting, delayed, in the hands of workers, dead."""

import base64
import binascii
import re
from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio import Redis

from worker.delivery import keys
from worker.delivery.truth import look

_BLOB = re.compile(rb"sha256:[0-9a-f]{64}")
#: A message's body in base64, as kombu writes it; also where the message is a string inside other JSON.
_BODY = re.compile(rb'body\\*": ?\\*"([A-Za-z0-9+/=]+)')
#: Messages read at once.
_PAGE = 500


async def references(client: Redis) -> set[str]:
    """`sha256:…` of every blob that a message refers to; raises redis-py's errors."""
    found: set[str] = set()
    async for raw in _messages(client):
        found.update(reference.decode() for reference in _BLOB.findall(raw))
        for body in _BODY.findall(raw):
            try:
                decoded = base64.b64decode(body)
            except binascii.Error:
                continue
            found.update(reference.decode() for reference in _BLOB.findall(decoded))
    return found


async def _messages(client: Redis) -> AsyncIterator[bytes]:
    queues = [queue.name for queue in (await look(client)).queues]
    lists = [name for queue in queues for name in keys.lists_of(queue)]
    lists += [name for name in keys.OTHER_WORK if name != keys.DELAYED]
    lists += [name.decode() async for name in client.scan_iter(keys.COPIES % "*", count=_PAGE)]
    entry: Any  # redis-py cannot know that this client decodes nothing
    for name in lists:
        start = 0
        while page := await client.lrange(name, start, start + _PAGE - 1):
            for entry in page:
                yield entry
            start += _PAGE
    for name in (keys.HELD, keys.DELAYED_MESSAGES, keys.DEAD_ENTRIES):
        async for entry in client.hscan_iter(name, count=_PAGE):
            yield entry[1]
