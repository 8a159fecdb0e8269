"""Messages that are not due yet wait in Redis, not in a worker."""

import random
from datetime import UTC, datetime, timedelta, timezone

import pytest
from redis.asyncio import Redis

from tests.integration.delivery.ledgers import Clock, Clocked
from tests.integration.delivery.messages import message, old_message, outcome
from tests.integration.delivery.view import REMAINS


async def test_a_message_comes_when_it_is_due_and_not_before(client: Redis, clock: Clock, a: Clocked) -> None:
    await client.lpush("batch\x06\x163", message("later", eta=clock.iso(90)))
    taken = await a.take()
    assert not taken.deliveries
    assert taken.due_in_s == pytest.approx(90, abs=0.001)
    await clock.forward(client, 89.9)
    assert not (await a.take()).deliveries
    await clock.forward(client, 0.2)
    [found] = (await a.take()).deliveries
    assert (found.task_id, found.queue) == ("later", "batch")


async def test_what_was_due_first_comes_first(client: Redis, clock: Clock, a: Clocked) -> None:
    await client.lpush("default", *(message(f"{due}", eta=clock.iso(due)) for due in (30, 10, 20)))
    assert not (await a.take()).deliveries
    await clock.forward(client, 60)
    assert [one.task_id for one in (await a.take()).deliveries] == ["10", "20", "30"]


@pytest.mark.parametrize(
    "eta",
    [
        "2026-11-21T12:00:00Z",
        "2026-11-21T12:00:00+00:00",
        "2026-11-21T14:00:00+02:00",
        "2026-11-21T06:30:00-05:30",
        "2026-11-21T06:30:00-0530",
        "2026-11-21T12:00:00",
        "2026-11-21 12:00:00",
        "2026-11-21T12:00:00.000000+00:00",
    ],
)
async def test_an_eta_is_read_as_celery_reads_it(client: Redis, clock: Clock, a: Clocked, eta: str) -> None:
    noon_ms = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp() * 1000
    clock.now_ms = round(noon_ms) - 1000
    await clock.forward(client, 0)
    await client.lpush("default", message("x", eta=eta))
    assert (await a.take()).due_in_s == 1


async def test_any_time_in_any_zone_is_understood(client: Redis, clock: Clock, a: Clocked) -> None:
    clock.now_ms = 0
    await clock.forward(client, 0)
    chosen = random.Random(3)
    etas = {"leap": datetime(2096, 2, 29, 23, 59, 59, 999999, tzinfo=UTC)}
    for number in range(300):
        zone = timezone(timedelta(minutes=chosen.randint(-14 * 60, 14 * 60)))
        seconds, microseconds = chosen.randint(86_400, 6_000_000_000), chosen.choice([0, 1, 500_000, 999_999])
        etas[f"{number}"] = datetime.fromtimestamp(seconds, zone).replace(microsecond=microseconds)
    await client.lpush("default", *(message(name, eta=eta.isoformat()) for name, eta in etas.items()))
    assert not (await a.take()).deliveries
    delayed = {name.decode(): due for name, due in await client.zrange("kc:delayed", 0, -1, withscores=True)}
    assert delayed == pytest.approx({name: eta.timestamp() * 1000 for name, eta in etas.items()}, abs=1)


@pytest.mark.parametrize(
    "eta", ["", "tomorrow", "2099-13-01T00:00:00", "2099-01-99T00:00:00", "99999-01-01T00:00:00", "2099-01-01",
            "2099-01-01T00:00:00 somewhere", "4102444800"],
)  # fmt: skip
async def test_an_eta_that_is_none_goes_to_the_worker_who_says_so(
    client: Redis, a: Clocked, eta: str
) -> None:
    await client.lpush("default", message("x", eta=eta))
    assert len((await a.take()).deliveries) == 1


async def test_an_eta_that_is_over_is_no_reason_to_wait(client: Redis, clock: Clock, a: Clocked) -> None:
    await client.lpush("default", message("x", eta=clock.iso(-5)))
    assert len((await a.take()).deliveries) == 1


async def test_a_message_without_headers_has_its_id_among_its_properties(client: Redis, a: Clocked) -> None:
    await client.lpush("default", old_message("old"), old_message(None))
    named, unnamed = (await a.take()).deliveries
    assert named.task_id == "old"
    assert unnamed.task_id.startswith("unnamed-")


async def test_a_retry_waits_and_remembers(client: Redis, clock: Clock, a: Clocked, b: Clocked) -> None:
    await client.lpush("default", message("x"))
    [first] = (await a.take()).deliveries
    assert await a.defer(first.token, 30, {"event": "retry"})
    assert (await b.take()).due_in_s == 30
    await clock.forward(client, 30)
    [second] = (await b.take()).deliveries
    assert (second.tries, second.deaths, second.waited_s) == (1, 0, 30)
    assert second.raw == first.raw


async def test_cancelling_what_is_delayed_makes_it_due_so_that_nothing_of_it_stays(
    client: Redis, clock: Clock, a: Clocked
) -> None:
    await client.lpush("default", message("eta", eta=clock.iso(3600)), message("retry"))
    [retry] = (await a.take()).deliveries
    await a.defer(retry.token, 3600, {"event": "retry"})
    for name in ("eta", "retry"):
        assert await a.cancel(name, outcome("REVOKED", name), 60) == "waiting"
    taken = await a.take()
    assert not taken.deliveries
    assert taken.due_in_s is None
    assert set(await client.keys("kc:*")) <= REMAINS


async def test_what_was_cancelled_just_before_it_is_put_off_does_not_stay_either(
    client: Redis, a: Clocked
) -> None:
    await client.lpush("default", message("x"))
    [found] = (await a.take()).deliveries
    assert await a.cancel("x", outcome("REVOKED", "x"), 60) == "running"
    assert await a.defer(found.token, 3600, {"event": "retry"})
    assert not (await a.take()).deliveries
    assert set(await client.keys("kc:*")) <= REMAINS
