"""Servers that fail, hang, refuse and come back: what they are sent meanwhile, and what their tasks notice."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from worker.backends import gate, watch
from worker.backends import server as server_module
from worker.backends.base import Backend, CallContext, State
from worker.backends.scripted import Scripted
from worker.backends.scripted_seen import Seen
from worker.errors import BackendRejected, BackendUnavailable

Connect = Callable[..., Backend]
Until = Callable[..., Awaitable[None]]

HELLO = {"messages": [{"role": "user", "content": "Hello to you"}]}
CALL = CallContext(task_id="a")


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for servers of milliseconds."""
    monkeypatch.setattr(watch, "PROBE_EVERY_S", 0.02)
    monkeypatch.setattr(watch, "MOST_PROBE_EVERY_S", 0.02)
    monkeypatch.setattr(watch, "MOST_ASIDE_S", 0.1)
    monkeypatch.setattr(server_module, "REST_S", 0.02)


def port(server: Scripted) -> int:
    return int(server.url.rsplit(":", 1)[1])


async def ask(backend: Backend, count: int) -> list[Any]:
    return await asyncio.gather(*(backend.chat(HELLO, CallContext(task_id=str(n))) for n in range(count)))


def most_at_once(chats: list[Seen]) -> list[int]:
    """How many were in flight when each of them came, itself included."""
    return [
        sum(other.number <= chat.number and (other.ended_s or 1e99) > chat.started_s for other in chats)
        for chat in chats
    ]


class TestReturn:
    async def test_a_server_that_comes_back_gets_one_request_and_then_twice_as_many_each_time(
        self, connect: Connect, until: Until
    ) -> None:
        server = await Scripted().start()
        backend = connect(server)
        await backend.capabilities(CALL)
        await server.stop()
        tasks = asyncio.create_task(ask(backend, 100))
        await until(lambda: backend.load()[0].waiting == 100)
        async with Scripted(slots=64, latency_s=0.02) as again:
            await again.stop()
            await again.start(port(server))
            await tasks
        for number, at_once in enumerate(most_at_once(again.chats())):
            answered_before = number + 1 - at_once
            assert at_once <= answered_before + 1
        assert again.most_in_flight > 16
        assert len(again.chats()) == 100

    async def test_a_server_that_was_there_from_the_start_gets_all_at_once(self, connect: Connect) -> None:
        async with Scripted(slots=64, latency_s=0.2) as server:
            await ask(connect(server), 64)
        assert server.most_in_flight == 64

    async def test_what_was_in_flight_when_a_server_died_is_sent_again_once(
        self, connect: Connect, until: Until
    ) -> None:
        server = await Scripted(slots=16).start()
        backend = connect(server)
        await ask(backend, 40)
        server.latency_s = 5
        tasks = asyncio.create_task(ask(backend, 160))
        await until(lambda: len(server.chats()) == 56)
        await server.stop()
        cut = sum(chat.outcome != "answered" for chat in server.chats())
        async with Scripted(slots=16) as again:
            await again.stop()
            await asyncio.sleep(0.1)
            await again.start(port(server))
            replies = await tasks
        assert cut == 16
        assert len(server.chats()) + len(again.chats()) == 200 + cut
        assert max(reply.attempts for reply in replies) == 2

    async def test_a_server_that_breaks_down_again_on_its_return_is_sent_little(
        self, server: Scripted, connect: Connect
    ) -> None:
        server.slots = 50
        server.script({"fault": "close", "for_s": 0.6})
        replies = await ask(connect(server), 100)
        spoilt = [chat for chat in server.chats() if chat.outcome == "faulted"]
        assert len(replies) == 100
        assert len(spoilt) <= 50 + 20, "those of the first moment, then one at a time"


class TestRefusals:
    async def test_an_outage_of_refusals_costs_few_requests_and_no_task(self, connect: Connect) -> None:
        async with Scripted(slots=8, latency_s=0.01) as server:
            backend = connect(server)
            tasks = asyncio.create_task(ask(backend, 1000))
            await asyncio.sleep(0.2)
            server.script({"fault": "status", "status": 503, "for_s": 1.0})
            await tasks
            [load] = backend.load()
        assert len(server.chats()) <= 1000 * 1.05
        assert load.refusals == len(server.chats()) - 1000 > 0

    async def test_retry_after_is_respected_by_everybody_at_once(self, connect: Connect) -> None:
        async with Scripted(slots=8, latency_s=0.2) as server:
            backend = connect(server)
            await backend.capabilities(CALL)
            server.script({"fault": "status", "status": 429, "headers": {"Retry-After": "0.5"}})
            await ask(backend, 20)
            refused, later = server.chats()[0], server.chats()[8:]
        assert refused.outcome == "faulted"
        assert refused.ended_s is not None
        assert min(chat.started_s for chat in later) >= refused.ended_s + 0.5

    async def test_a_refusal_lowers_the_limit(self, connect: Connect) -> None:
        async with Scripted(kind="vllm", latency_s=0.02) as server:
            backend: Any = connect(server, kind="vllm")
            await backend.chat(HELLO, CALL)
            server.script({"fault": "status", "status": 429})
            await ask(backend, 5)
            assert backend._gate.servers[0].limiter.value == int(32 * 0.7)

    async def test_refusals_without_an_answer_between_them_lower_the_limit_once(
        self, connect: Connect
    ) -> None:
        async with Scripted(kind="vllm") as server:
            backend: Any = connect(server, kind="vllm")
            await backend.chat(HELLO, CALL)
            server.script({"fault": "status", "status": 503, "times": 6})
            await backend.chat(HELLO, CALL)
            assert backend.load()[0].refusals == 6
            assert backend._gate.servers[0].limiter.value == int(32 * 0.7)

    async def test_a_server_that_is_full_by_its_own_metrics_gets_no_more(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watch, "LISTEN_EVERY_S", 0.01)
        async with Scripted(kind="vllm", slots=4, latency_s=0.02) as server:
            backend = connect(server, kind="vllm")
            await ask(backend, 300)
            assert server.memory.most_in_flight <= 32 + 1, "and the question"
            assert "/metrics" in {seen.path for seen in server.seen}

    async def test_a_proxy_without_metrics_is_asked_for_them_once(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watch, "LISTEN_EVERY_S", 0.01)
        async with Scripted(kind="vllm", latency_s=0.1) as server:
            server.script({"fault": "status", "status": 404, "path": "/metrics", "times": -1})
            backend = connect(server, kind="vllm")
            await ask(backend, 3)
            await ask(backend, 3)
        assert [seen.path for seen in server.seen].count("/metrics") == 1


class TestSeveralServers:
    async def test_a_server_that_hangs_does_not_take_the_work_of_the_others(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gate, "STALLED_S", 0.2)
        monkeypatch.setattr(watch, "PROBE_EVERY_S", 60.0)
        monkeypatch.setattr(watch, "MOST_ASIDE_S", 60.0)
        async with Scripted(latency_s=0.01) as good, Scripted() as hung:
            hung.script({"fault": "hang", "times": -1})
            backend = connect(good, hung, timeout_s=1.0)
            await backend.capabilities(CALL)
            served: Counter[str] = Counter()

            async def work(name: int) -> None:
                for number in range(40):
                    context = CallContext(task_id=f"{name}-{number}")
                    served[(await backend.chat(HELLO, context)).server_url] += 1

            await asyncio.gather(*map(work, range(16)))
        assert served == {good.url: 640}
        assert len(hung.chats()) <= 16

    async def test_a_request_that_timed_out_goes_to_another_server(
        self, connect: Connect, quick_retries: None
    ) -> None:
        async with Scripted() as good, Scripted() as hung:
            hung.script({"fault": "hang", "times": -1})
            backend = connect(hung, good, timeout_s=0.2)
            await backend.capabilities(CALL)
            replies = [await backend.chat(HELLO, CALL) for _ in range(4)]
        assert {reply.server_url for reply in replies} == {good.url}
        assert max(reply.attempts for reply in replies) == 2

    async def test_a_server_that_fails_is_put_aside_and_comes_back(
        self, connect: Connect, quick_retries: None, until: Until, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watch, "PROBE_EVERY_S", 0.1)
        async with Scripted() as good, Scripted() as bad:
            backend = connect(bad, good)
            await backend.capabilities(CALL)
            bad.script({"fault": "status", "status": 500, "times": -1})
            await ask(backend, 20)
            load = {load.url: load for load in backend.load()}[bad.url]
            assert (load.state, load.limit) == (State.DOWN, 0)
            asked = len(bad.chats())
            await ask(backend, 20)
            assert len(bad.chats()) == asked
            bad.faults.clear()
            await until(lambda: all(load.state is State.READY for load in backend.load()))
            await ask(backend, 20)
        assert len(bad.chats()) > asked


class TestFailuresOfOneTask:
    async def test_what_one_task_breaks_is_not_taken_from_the_others(
        self, server: Scripted, connect: Connect, quick_retries: None
    ) -> None:
        backend = connect(server)
        server.script({"fault": "status", "status": 500, "times": 5})
        with pytest.raises(BackendUnavailable):
            await backend.chat(HELLO, CALL)
        assert backend.load()[0].state is State.READY
        assert (await backend.chat(HELLO, CallContext(task_id="b"))).attempts == 1


class TestFailuresOfTheWholeServer:
    @pytest.mark.parametrize(
        "fault",
        [
            {"fault": "half_body"},
            {"fault": "close"},
            {"fault": "close_mid_stream"},
            {"fault": "wrong_length", "bytes": -20},
            {"fault": "wrong_length", "bytes": 20},
            {"fault": "drip", "seconds": 0.01},
            {"fault": "hang"},
            {"fault": "close", "after_s": 0.05},
        ],
        ids=["cut", "closed", "cut stream", "shorter", "longer", "drip", "hang", "closed later"],
    )
    async def test_a_while_of_bad_answers_fails_no_task(
        self, server: Scripted, connect: Connect, quick_retries: None, fault: Any
    ) -> None:
        backend = connect(server, timeout_s=0.3, max_concurrency=8)
        await backend.chat(HELLO, CALL)
        server.script({**fault, "for_s": 0.2})
        replies = await ask(backend, 60)
        assert {reply.text for reply in replies} <= {"Hello to you"}

    async def test_a_request_that_kills_its_server_each_time_is_given_up(
        self, connect: Connect, quick_retries: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with Scripted(latency_s=0.005) as server:
            server.script({"fault": "close", "request_id": "poison", "times": -1})
            backend = connect(server)
            poison = asyncio.create_task(backend.chat(HELLO, CallContext(task_id="poison")))
            replies = await ask(backend, 50)
            with pytest.raises(Exception, match="closed the connection"):
                await poison
        assert {reply.text for reply in replies} == {"Hello to you"}
        assert [chat.request_id for chat in server.chats()].count("poison") <= 25


class TestCapacity:
    async def test_it_is_what_the_ready_servers_take(self, connect: Connect, until: Until) -> None:
        changes: list[int] = []
        async with Scripted(slots=3) as one, Scripted(slots=5) as two:
            backend = connect(one, two)
            assert backend.capacity() == 0
            backend.on_capacity_change(lambda: changes.append(backend.capacity()))
            await until(lambda: backend.capacity() == 8)
            await two.stop()
            while backend.capacity() == 8:
                await backend.chat(HELLO, CALL)
            assert backend.capacity() == 3
            await two.start(port(two))
            await until(lambda: backend.capacity() > 3)
            assert backend.capacity() == 4, "it comes back with one"
        assert changes[-3:] == [8, 3, 4]

    async def test_a_server_that_rejects_us_is_worth_one_task_that_is_told_so(
        self, server: Scripted, connect: Connect, until: Until
    ) -> None:
        server.script({"fault": "status", "status": 401, "path": "/v1/models", "times": -1})
        backend = connect(server)
        backend.on_capacity_change(lambda: None)
        await until(lambda: backend.capacity() == 1)
        with pytest.raises(BackendRejected, match="LLM_API_KEY"):
            await backend.chat(HELLO, CALL)
        server.faults.clear()
        await ask(backend, 2)
        assert backend.capacity() > 1

    async def test_the_load_of_each_server_is_told(self, connect: Connect, until: Until) -> None:
        async with Scripted(slots=2, latency_s=5) as server:
            backend = connect(server)
            [load] = backend.load()
            assert (load.state, load.limit, load.in_flight, load.probes) == (State.DOWN, 0, 0, 0)
            running = asyncio.create_task(ask(backend, 5))
            await until(lambda: backend.load()[0].in_flight == 2)
            [load] = backend.load()
            running.cancel()
        assert (load.url, load.state, load.limit, load.waiting) == (server.url, State.READY, 2, 3)
        assert (load.probes, load.refusals) == (1, 0)
