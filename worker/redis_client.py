"""One way to name a Redis, for the three libraries that connect to it.

redis-py    redis:// rediss:// unix:///path?db=0
kombu       redis:// rediss:// redis+socket:///path?virtual_host=0   sentinel://h1;sentinel://h2
Celery      redis:// rediss:// socket:///path?virtual_host=0         sentinel://h1;sentinel://h2
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

#: Seconds; a half-open connection is noticed within these. A result and its acknowledgement go over two, and
#: may find out one after the other.
SOCKET_TIMEOUT_S = 10
CONNECT_TIMEOUT_S = 5
HEALTH_CHECK_INTERVAL_S = 5


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is.

    Attributes:
        url: redis://, rediss://, unix:// or sentinel:// (several sentinels joined by ";").
        sentinel_master: name of the master the sentinels watch.
    """

    url: str
    sentinel_master: str = "mymaster"

    @property
    def is_sentinel(self) -> bool:
        """Whether sentinels have to be asked where the master is."""
        return self.url.startswith("sentinel://")

    @property
    def broker_url(self) -> str:
        """As kombu wants it."""
        return _socket_url(self.url, "redis+socket") if self.url.startswith("unix://") else self._verified

    @property
    def result_url(self) -> str:
        """As Celery's result store wants it."""
        return _socket_url(self.url, "socket") if self.url.startswith("unix://") else self._verified

    @property
    def shown(self) -> str:
        """For people: without the password."""
        parts = urlsplit(self.url)
        return self.url.replace(f":{parts.password}@", ":***@") if parts.password else self.url

    def connect_once(self) -> Redis:
        """A client with one connection that never reconnects unasked, and hears notes on RESP2."""
        return self.connect(1, protocol=2)

    def connect(self, max_connections: int = 32, **different: Any) -> Redis:
        """A client for one event loop; callers beyond `max_connections` wait for a free connection."""
        options: dict[str, Any] = {
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": 0,  # a question would wait as long as the command
            "retry": Retry(NoBackoff(), 0),  # who asks knows whether and when to ask again
            **different,
        }
        if self.is_sentinel:
            first = urlsplit(self.url.split(";")[0])
            nodes = [urlsplit(node) for node in self.url.split(";")]
            hosts = [(str(node.hostname), node.port or 26379) for node in nodes]
            sentinel = Sentinel(hosts, **options)  # type: ignore[no-untyped-call]
            password = unquote(first.password) if first.password else None
            master: Redis = sentinel.master_for(
                self.sentinel_master, password=password, db=int(first.path.strip("/") or 0), **options
            )
            return _cancellable(master)
        pool = BlockingConnectionPool.from_url(
            self.url, max_connections=max_connections, timeout=None, **_without_tcp(options, self.url)
        )
        return _cancellable(Redis.from_pool(pool))  # which closes it with the client

    async def ping(self, timeout_s: float) -> str | None:
        """Whether Redis answers: None, or the reason in words."""
        try:
            async with asyncio.timeout(timeout_s), self.connect(1) as client:
                await client.ping()
        except TimeoutError:
            return f"Redis at {self.shown} does not answer within {timeout_s:g} s"
        except (RedisError, OSError) as error:
            return f"Redis at {self.shown}: {error}"
        return None

    @property
    def _verified(self) -> str:
        """Kombu and Celery refuse rediss:// without a word on certificates; the answer is: check them."""
        if self.url.startswith("rediss://") and "ssl_cert_reqs" not in self.url:
            return f"{self.url}{'&' if '?' in self.url else '?'}ssl_cert_reqs=required"
        return self.url


class _Cancellable:
    """A connection on which no cancellation is lost.

    redis-py writes under `asyncio.wait_for`, which before Python 3.12 forgets one that comes in the moment in
    which the write is done (python/cpython#86296): who is cancelled would go on.
    """

    disconnect: Callable[..., Awaitable[None]]

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        """Send a command."""
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        await super().send_packed_command(*args, **kwargs)  # type: ignore[misc]
        if task and task.cancelling() > before:
            await self.disconnect(nowait=True)  # nobody reads the answer
            raise asyncio.CancelledError


def _cancellable(client: Redis) -> Redis:
    pool = client.connection_pool
    kind = pool.connection_class
    pool.connection_class = type(f"Cancellable{kind.__name__}", (_Cancellable, kind), {})
    return client


def _socket_url(url: str, scheme: str) -> str:
    parts = urlsplit(url)
    login = f"{parts.netloc}" if parts.netloc else ""
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"{scheme}://{login}{parts.path}?virtual_host={database}"


def _without_tcp(options: dict[str, Any], url: str) -> dict[str, Any]:
    """Unix sockets know no keepalive."""
    if url.startswith("unix://"):
        return {name: value for name, value in options.items() if name != "socket_keepalive"}
    return options
