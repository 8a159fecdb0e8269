"""Ledgers of several workers on one Redis, and a clock that goes when it is told to."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from redis.asyncio import Redis

from tests.integration.delivery.messages import LANES
from worker.delivery import ledger as shipped
from worker.delivery.ledger import Delivery, Ledger, Suspects, Taken

#: Where the scripts find the time instead of in Redis' own clock: [seconds, microseconds].
CLOCK = "test:clock"
START_MS = 1_800_000_000_000


class Clocked(Ledger):
    """The shipped scripts, but for where they read the time."""

    def __init__(self, client: Redis, owner: str = "", lease_s: float = 60, max_deliveries: int = 5) -> None:
        super().__init__(client, owner, lease_s, max_deliveries)
        self.owner = owner
        asks, told = "redis.call('TIME')", f"cjson.decode(redis.call('GET', '{CLOCK}'))"
        for name, source in shipped._sources().items():
            assert source.count(asks) == 1, "the scripts read the time in one place"
            self._scripts[name] = client.register_script(source.replace(asks, told))

    async def take(
        self,
        wanted: int = 10,
        lanes: Sequence[Sequence[str]] = LANES,
        *,
        spare: int = 0,
        held: Sequence[Delivery] = (),
        breadth: int = 256,
    ) -> Taken:
        """Reserve as a worker does that holds these deliveries."""
        deaths = [one.deaths for one in held if one.deaths]
        return await self.reserve(
            lanes, wanted, spare, Suspects(len(deaths), max(deaths, default=0), breadth)
        )


class Clock:
    """Redis' clock. It stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    @property
    def written(self) -> str:
        """As the scripts read it."""
        return json.dumps([self.now_ms // 1000, self.now_ms % 1000 * 1000])

    def iso(self, seconds: float, offset_h: float = 0) -> str:
        """An `eta` so far from now, as Celery writes it."""
        zone = timezone(timedelta(hours=offset_h))
        return datetime.fromtimestamp(self.now_ms / 1000 + seconds, zone).isoformat()

    async def forward(self, client: Redis, seconds: float) -> None:
        """Let time pass."""
        self.now_ms += round(seconds * 1000)
        await client.set(CLOCK, self.written)
