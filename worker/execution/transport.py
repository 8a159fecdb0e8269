"""Kombu's Redis transports, unharmed by list entries that are no messages.

Any program may push onto the queues. Stock kombu lets the parser's exception end the worker.
"""

from typing import Any

from celery.utils.log import get_logger
from kombu.transport import redis

logger = get_logger(__name__)


class _TolerantReader:
    """Mixed into a channel."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            logger.error("Dropped a queue entry that is not a Celery message: %r", error)
            return True


class Channel(_TolerantReader, redis.Channel):
    """For one Redis."""


class SentinelChannel(_TolerantReader, redis.SentinelChannel):
    """For a master that sentinels watch."""


class Transport(redis.Transport):
    """`broker_transport` for redis://, rediss:// and unix://."""

    Channel = Channel


class SentinelTransport(redis.SentinelTransport):
    """`broker_transport` for sentinel://."""

    Channel = SentinelChannel
