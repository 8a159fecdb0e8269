"""Who gets the next slot: interactive work first, batch work last, nobody never."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from worker.backends.base import BackendOptions, Readiness, State
from worker.backends.gate import Gate, Slot
from worker.backends.lanes import LOWER_LANES_SHARE, MEAN_OVER_S, STAYS_S, Lane, Reserve
from worker.backends.limit import KnownLimit
from worker.backends.openai_compatible import OpenAIClient
from worker.backends.server import Server

INTERACTIVE, DEFAULT, BATCH = Lane.INTERACTIVE, Lane.DEFAULT, Lane.BATCH


def gate_of(*limits: int) -> Gate:
    """A gate in front of servers that nobody talks to."""
    servers = []
    for number, limit in enumerate(limits):
        url = f"http://server-{number}"
        client = OpenAIClient(url, BackendOptions(urls=(url,)))
        servers.append(Server(client, Readiness(url, State.READY), limiter=KnownLimit(limit)))
    return Gate(servers)


class Crowd:
    """Callers who hold what they get until they are told to leave."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.served: list[Lane] = []
        self.held: dict[Lane, list[Slot]] = {lane: [] for lane in Lane}
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, lane: Lane, count: int = 1) -> None:
        self.tasks += [asyncio.create_task(self._wait(lane)) for _ in range(count)]
        await settle()

    async def leave(self, lane: Lane) -> None:
        self.gate.give_back(self.held[lane].pop(0))
        await settle()

    async def _wait(self, lane: Lane) -> None:
        slot = await self.gate.take(lane)
        self.served.append(lane)
        self.held[lane].append(slot)

    def holds(self) -> dict[Lane, int]:
        return {lane: len(slots) for lane, slots in self.held.items() if slots}


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@asynccontextmanager
async def crowd_at(*limits: int) -> AsyncIterator[Crowd]:
    crowd = Crowd(gate_of(*limits))
    try:
        yield crowd
    finally:
        for task in crowd.tasks:
            task.cancel()
        await asyncio.gather(*crowd.tasks, return_exceptions=True)


def test_queues_of_other_names_are_the_default_lane() -> None:
    lanes = [Lane.of(queue) for queue in ("interactive", "default", "celery", "", "batch")]
    assert lanes == [INTERACTIVE, DEFAULT, DEFAULT, DEFAULT, BATCH]


def test_batch_work_leaves_an_eighth_free_and_keeps_the_most() -> None:
    for limit in range(1, 257):
        free = Reserve().of(limit)
        assert free == (0 if limit < 4 else max(1, limit // 8))
        assert (limit - free) / limit >= (0.85 if limit >= 7 else 0.75)


def test_batch_work_leaves_more_free_where_people_need_it_but_never_more_than_a_quarter() -> None:
    now = 0.0
    reserve = Reserve(lambda: now)
    reserve.interactive(2)
    now = 5 * MEAN_OVER_S
    assert reserve.of(64) == 8  # an eighth is enough for them
    assert reserve.of(32) == 7
    assert reserve.of(16) == 4
    reserve.interactive(-2)
    now += 5 * MEAN_OVER_S
    assert reserve.of(32) == 4
    reserve.interactive(100)
    now += 5 * MEAN_OVER_S
    for limit in range(12, 257):
        solo = limit - Reserve().of(limit)
        assert limit - reserve.of(limit) >= 0.8 * solo
        assert reserve.of(limit) <= limit // 4


def test_on_a_server_of_few_slots_one_person_is_enough_to_slow_batch_work_down() -> None:
    """Every call slows all others there."""
    now = 0.0
    reserve = Reserve(lambda: now)
    assert [reserve.of(limit) for limit in (3, 4, 8)] == [0, 1, 1]
    reserve.interactive(1)
    assert [reserve.of(limit) for limit in (3, 4, 8, 64)] == [0, 3, 3, 8]
    reserve.interactive(-1)
    now = STAYS_S - 1
    assert [reserve.of(limit) for limit in (3, 4, 8)] == [0, 3, 3], "he reads, and will ask again"
    now = STAYS_S + 1
    assert [reserve.of(limit) for limit in (3, 4, 8)] == [0, 1, 1]


async def test_batch_work_never_takes_the_slots_that_are_kept_free() -> None:
    async with crowd_at(16) as crowd:
        await crowd.come(BATCH, 40)
        assert crowd.holds() == {BATCH: 14}
        await crowd.come(INTERACTIVE)
        await crowd.come(DEFAULT)
        assert crowd.holds() == {BATCH: 14, INTERACTIVE: 1, DEFAULT: 1}


async def test_each_server_keeps_some_free() -> None:
    async with crowd_at(8, 4, 2) as crowd:
        await crowd.come(BATCH, 40)
        assert [server.in_flight for server in crowd.gate.servers] == [7, 3, 2]


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_few_slots_are_all_given_to_batch_work_and_the_next_one_to_interactive_work(limit: int) -> None:
    async with crowd_at(limit) as crowd:
        await crowd.come(BATCH, 10)
        assert crowd.holds() == {BATCH: limit}
        await crowd.come(INTERACTIVE)
        await crowd.leave(BATCH)
        assert crowd.served[-1] is INTERACTIVE


async def test_interactive_work_overtakes_all_others_and_keeps_its_own_order() -> None:
    async with crowd_at(1) as crowd:
        await crowd.come(DEFAULT)
        await crowd.come(BATCH, 2)
        await crowd.come(DEFAULT, 2)
        await crowd.come(INTERACTIVE, 2)
        for _ in range(6):
            await crowd.leave(crowd.served[-1])
        assert crowd.served[1:] == [INTERACTIVE, INTERACTIVE, DEFAULT, DEFAULT, BATCH, BATCH]


async def test_every_eighth_slot_goes_to_who_waits_longest_behind_the_first_lane() -> None:
    async with crowd_at(1) as crowd:
        await crowd.come(INTERACTIVE)
        await crowd.come(BATCH, 5)
        await crowd.come(DEFAULT, 5)
        await crowd.come(INTERACTIVE, 200)
        for _ in range(10 * LOWER_LANES_SHARE):
            await crowd.leave(crowd.served[-1])
        lower = [number for number, lane in enumerate(crowd.served[1:], 1) if lane is not INTERACTIVE]
        assert lower == [LOWER_LANES_SHARE * number for number in range(1, 11)]
        assert Counter(crowd.served)[BATCH] == Counter(crowd.served)[DEFAULT] == 5
        assert crowd.served[LOWER_LANES_SHARE] is BATCH, "it came first"


async def test_the_least_share_of_batch_work_does_not_take_what_is_kept_free() -> None:
    async with crowd_at(8) as crowd:
        await crowd.come(BATCH, 20)
        await crowd.come(INTERACTIVE, 30)
        for _ in range(20):
            await crowd.leave(INTERACTIVE)
        assert crowd.holds() == {BATCH: 7, INTERACTIVE: 1}


async def test_who_leaves_the_queue_holds_up_nobody() -> None:
    async with crowd_at(1) as crowd:
        await crowd.come(DEFAULT)
        await crowd.come(INTERACTIVE, 3)
        for task in crowd.tasks[1:3]:
            task.cancel()
        await settle()
        await crowd.leave(DEFAULT)
        assert crowd.holds() == {INTERACTIVE: 1}
        assert len(crowd.gate._lanes) == 0


async def test_who_was_turned_away_waits_in_front_of_his_lane() -> None:
    gate = gate_of(1)
    order = []

    async def wait(name: str, *, first: bool = False) -> None:
        slot = await gate.take(DEFAULT, first=first)
        order.append(name)
        gate.give_back(slot)

    slot = await gate.take(DEFAULT)
    tasks = [asyncio.create_task(wait("a")), asyncio.create_task(wait("b"))]
    await settle()
    tasks.append(asyncio.create_task(wait("turned away", first=True)))
    await settle()
    gate.give_back(slot)
    await asyncio.gather(*tasks)
    assert order == ["turned away", "a", "b"]
