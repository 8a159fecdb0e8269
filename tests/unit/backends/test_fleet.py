"""Waiting, balancing and giving up: what a task sees when servers come and go."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from worker.backends import server as server_module
from worker.backends import watch
from worker.backends.base import Backend, CallContext, Capabilities, State
from worker.backends.fleet import weakest
from worker.backends.lanes import Lane
from worker.backends.scripted import Scripted
from worker.errors import BackendRejected, BackendUnavailable, DeadlineExceeded

Connect = Callable[..., Backend]
Until = Callable[..., Awaitable[None]]

HELLO = {"messages": [{"role": "user", "content": "Hello to you"}]}
CALL = CallContext(task_id="a")


def within(seconds: float) -> CallContext:
    return CallContext(task_id="a", deadline=time.monotonic() + seconds)


@pytest.fixture
def eager_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that are down are asked again after milliseconds."""
    monkeypatch.setattr(watch, "PROBE_EVERY_S", 0.02)
    monkeypatch.setattr(watch, "MOST_PROBE_EVERY_S", 0.02)


@pytest.fixture
async def dead_url() -> str:
    """An address where nothing listens."""
    async with Scripted() as server:
        return server.url


def port(server: Scripted) -> int:
    return int(server.url.rsplit(":", 1)[1])


class TestConcurrency:
    async def test_no_more_are_in_flight_than_the_server_has_slots(self, connect: Connect) -> None:
        async with Scripted(slots=3, latency_s=0.02) as server:
            backend = connect(server)
            replies = await asyncio.gather(*(backend.chat(HELLO, CALL) for _ in range(20)))
        assert server.most_in_flight == 3
        assert max(reply.wait_s for reply in replies) > 0.08

    async def test_an_explicit_limit_wins_over_the_slots(self, connect: Connect) -> None:
        async with Scripted(slots=3, latency_s=0.02) as server:
            backend = connect(server, max_concurrency=5)
            await asyncio.gather(*(backend.chat(HELLO, CALL) for _ in range(20)))
        assert server.most_in_flight == 5

    async def test_a_server_without_slots_gets_as_much_as_the_process_may_hold(
        self, connect: Connect
    ) -> None:
        async with Scripted(kind="vllm", latency_s=0.05) as server:
            backend = connect(server, kind="vllm", pool_size=7)
            await asyncio.gather(*(backend.chat(HELLO, CALL) for _ in range(20)))
        assert server.most_in_flight == 7

    async def test_llama_cpp_python_never_sees_two_requests_of_any_sort(self, connect: Connect) -> None:
        async with Scripted(kind="llama-cpp-python", latency_s=0.01) as server:
            backend = connect(server, max_concurrency=8)
            await asyncio.gather(
                *(backend.chat(HELLO, CALL) for _ in range(5)),
                *(backend.chat(HELLO, CALL, lambda _: None) for _ in range(5)),
                *(backend.count_tokens(["one", "two"], CALL) for _ in range(5)),
                *(backend.capabilities(CALL) for _ in range(3)),
                backend.embed({"input": "x"}, CALL),
            )
        assert server.most_in_flight == 1

    async def test_who_waits_longest_is_served_first(self, connect: Connect) -> None:
        async with Scripted(slots=1) as server:
            backend, order = connect(server), list[int]()

            async def ask(number: int) -> None:
                await backend.chat(HELLO, CALL)
                order.append(number)

            await asyncio.gather(*map(ask, range(12)))
        assert order == list(range(12))

    async def test_256_are_in_flight_at_once(self, connect: Connect) -> None:
        async with Scripted(latency_s=1.0) as server:
            backend = connect(server)
            await asyncio.gather(*(backend.chat(HELLO, CALL) for _ in range(256)))
        assert server.most_in_flight == 256

    async def test_a_slot_comes_back_however_the_request_ends(self, connect: Connect, until: Until) -> None:
        async with Scripted(slots=1, latency_s=5) as server:
            backend = connect(server)
            for _ in range(3):
                running = asyncio.create_task(backend.chat(HELLO, CALL))
                waiting = asyncio.create_task(backend.chat(HELLO, CALL))
                asked = len(server.chats())
                await until(lambda asked=asked: len(server.chats()) == asked + 1)
                for task in (waiting, running):
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
            server.latency_s = 0
            with pytest.raises(BackendRejected):
                await backend.chat({"messages": "x"}, CALL)
            with pytest.raises(DeadlineExceeded):
                await backend.chat(HELLO, within(-1))
            assert (await backend.chat(HELLO, within(5))).text == "Hello to you"

    async def test_a_slot_that_comes_in_the_moment_of_cancelling_is_passed_on(self, connect: Connect) -> None:
        async with Scripted(slots=1, latency_s=0.01) as server:
            backend = connect(server)
            tasks = [asyncio.create_task(backend.chat(HELLO, CALL)) for _ in range(40)]
            for task in tasks[1::2]:
                await asyncio.sleep(0.005)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert (await backend.chat(HELLO, within(5))).text == "Hello to you"


class TestGate:
    async def test_who_waits_for_one_certain_server_holds_up_nobody(self, connect: Connect) -> None:
        async with Scripted() as one, Scripted() as two:
            backend: Any = connect(one, two)
            await backend.capabilities(CALL)
            lent = backend._gate
            down, up = lent.servers
            backend._watcher._set_down(down, "gone")
            patient = asyncio.create_task(lent.take(Lane.DEFAULT, only=down))
            await asyncio.sleep(0)
            assert (await lent.take(Lane.DEFAULT)).server is up
            patient.cancel()


class TestSeveralServers:
    async def test_requests_go_where_the_fewest_are_in_flight(self, connect: Connect, until: Until) -> None:
        async with Scripted() as one, Scripted() as two:
            backend = connect(one, two)
            await backend.capabilities(CALL)
            for server in (one, two):
                server.script({"fault": "hang"})
            stuck = asyncio.create_task(backend.chat(HELLO, CALL))
            await until(lambda: bool(one.chats() or two.chats()))
            free = two if one.chats() else one
            free.faults.clear()
            replies = [await backend.chat(HELLO, CALL) for _ in range(5)]
            stuck.cancel()
        assert {reply.server_url for reply in replies} == {free.url}

    async def test_equal_servers_take_turns(self, connect: Connect) -> None:
        async with Scripted() as one, Scripted() as two:
            backend = connect(one, two)
            await backend.capabilities(CALL)
            for _ in range(10):
                await backend.chat(HELLO, CALL)
        assert len(one.chats()) == len(two.chats()) == 5

    async def test_a_failed_answer_is_asked_for_elsewhere(
        self, connect: Connect, quick_retries: None
    ) -> None:
        async with Scripted() as good, Scripted() as bad:
            bad.script({"fault": "status", "status": 500, "times": -1})
            backend = connect(bad, good)
            await backend.capabilities(CALL)
            replies = [await backend.chat(HELLO, CALL) for _ in range(4)]
        assert {reply.server_url for reply in replies} == {good.url}
        assert max(reply.attempts for reply in replies) == 2

    async def test_a_dead_server_costs_nothing_while_another_lives(
        self, connect: Connect, dead_url: str
    ) -> None:
        async with Scripted() as server:
            backend = connect(dead_url, server)
            replies = await asyncio.gather(*(backend.chat(HELLO, within(5)) for _ in range(10)))
            states = {found.url: found.state for found in await backend.probe()}
        assert {reply.server_url for reply in replies} == {server.url}
        assert states == {dead_url: State.DOWN, server.url: State.READY}

    async def test_capabilities_are_those_every_server_has(self, connect: Connect) -> None:
        async with Scripted(slots=2, embeddings=False) as one, Scripted(slots=3, context_length=512) as two:
            backend = connect(one, two)
            await backend.chat(HELLO, CALL)
            found = await backend.capabilities(CALL)
        assert (found.slots, found.context_length, found.embeddings) == (5, 512, False)

    async def test_whether_servers_embed_is_asked_once_each_however_many_want_to_know(
        self, connect: Connect
    ) -> None:
        async with Scripted(kind="llama-cpp-python") as one, Scripted(kind="llama-cpp-python") as two:
            backend = connect(one, two)
            await asyncio.gather(*(backend.capabilities(CALL) for _ in range(20)))
            await backend.capabilities(CALL)
        asked = [[seen.path for seen in server.seen].count("/v1/embeddings") for server in (one, two)]
        assert asked == [1, 1]
        assert one.most_in_flight == two.most_in_flight == 1

    def test_the_weakest_of_each_is_taken(self) -> None:
        strong = Capabilities(
            "llama.cpp", "a", ("a", "b"), 4, 4096, "json_schema", embeddings=True, tokenizer=True
        )
        weak = Capabilities("vllm", "b", ("b",), None, None, "json_object", embeddings=True, tokenizer=False)
        both = Capabilities(
            "llama.cpp+vllm", "a", ("b",), None, 4096, "json_object", embeddings=True, tokenizer=False
        )
        assert weakest([strong]) == strong
        assert weakest([strong, weak]) == both


class TestReadiness:
    async def test_work_waits_for_a_server_that_loads(
        self, server: Scripted, connect: Connect, eager_probes: None, until: Until
    ) -> None:
        server.loading = True
        backend = connect(server)
        [found] = await backend.probe()
        assert found.state is State.LOADING
        assert "still loading its model" in found.reason
        task = asyncio.create_task(backend.chat(HELLO, CALL))
        await until(lambda: len(server.seen) > 3)
        assert server.chats() == []
        server.loading = False
        assert (await task).attempts == 1

    async def test_work_waits_out_a_restart_and_pays_no_attempt(
        self, connect: Connect, eager_probes: None, until: Until
    ) -> None:
        server = await Scripted(slots=2).start()
        backend = connect(server)
        assert (await backend.capabilities(CALL)).slots == 2
        await server.stop()
        tasks = [asyncio.create_task(backend.chat(HELLO, within(20))) for _ in range(20)]
        assert (await backend.probe())[0].state is State.DOWN
        assert not any(task.done() for task in tasks)
        async with Scripted(slots=3, latency_s=0.01, context_length=99) as again:
            await again.stop()
            await again.start(port(server))
            replies = await asyncio.gather(*tasks)
            found = await backend.capabilities(CALL)
        assert {reply.text for reply in replies} == {"Hello to you"}
        assert max(reply.attempts for reply in replies) <= 3
        assert again.most_in_flight == 3, "it was found out again how many slots there are"
        assert found.context_length == 99

    async def test_down_until_the_deadline_says_why(self, connect: Connect, dead_url: str) -> None:
        with pytest.raises(BackendUnavailable, match=r"Nothing answers at .*LLM_SERVER_URL"):
            await connect(dead_url).chat(HELLO, within(0.3))

    async def test_busy_until_the_deadline_is_the_deadlines_fault(self, connect: Connect) -> None:
        async with Scripted(slots=1, latency_s=5) as server:
            backend = connect(server)
            first = asyncio.create_task(backend.chat(HELLO, CALL))
            with pytest.raises(DeadlineExceeded):
                await backend.chat(HELLO, within(0.2))
            first.cancel()

    async def test_a_slow_answer_is_cut_off_at_the_deadline(self, connect: Connect, until: Until) -> None:
        async with Scripted(latency_s=5) as server:
            with pytest.raises(DeadlineExceeded, match="No answer from"):
                await connect(server).chat(HELLO, within(0.2))
            await until(lambda: server.chats()[0].outcome == "disconnected")

    async def test_a_full_server_is_left_alone_as_long_as_it_asks(
        self, server: Scripted, connect: Connect
    ) -> None:
        server.script({"fault": "status", "status": 429, "headers": {"Retry-After": "0.4"}})
        started = time.monotonic()
        reply = await connect(server).chat(HELLO, CALL)
        assert time.monotonic() - started >= 0.4
        assert reply.attempts == 2

    async def test_a_full_server_costs_no_attempts(
        self, server: Scripted, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_module, "MOST_REST_S", 0.01)
        server.script({"fault": "status", "status": 503, "times": 12})
        assert (await connect(server).chat(HELLO, CALL)).attempts == 13

    async def test_a_web_page_instead_of_a_server_fails_at_once_and_is_asked_anew_for_the_next_task(
        self, server: Scripted, connect: Connect
    ) -> None:
        server.script({"fault": "html", "path": "/health"})
        backend = connect(server)
        with pytest.raises(BackendRejected, match="LLM_SERVER_URL does not look like"):
            await backend.chat(HELLO, CALL)
        assert (await backend.chat(HELLO, CALL)).text == "Hello to you"

    async def test_a_wrong_key_fails_at_once(self, server: Scripted, connect: Connect) -> None:
        server.script({"fault": "status", "status": 401, "path": "/v1/models", "times": -1})
        with pytest.raises(BackendRejected, match="LLM_API_KEY"):
            await connect(server).capabilities(CALL)

    @pytest.mark.parametrize("kind", ["llamacpp", "llama-cpp-python", "vllm"])
    async def test_every_kind_of_server_is_recognised(self, connect: Connect, kind: Any) -> None:
        async with Scripted(kind=kind) as server:
            backend = connect(server, kind="vllm" if kind == "vllm" else "llamacpp")
            assert [found.state for found in await backend.probe()] == [State.READY]
            found = await backend.capabilities(CALL)
            counts = await backend.count_tokens(["one two three", ""], CALL)
        names = {"llamacpp": "llama.cpp"}
        structured = "json_object" if kind == "llama-cpp-python" else "json_schema"
        slots = {"llamacpp": 256, "llama-cpp-python": 1, "vllm": None}[kind]
        assert found == Capabilities(
            names.get(kind, kind),
            "scripted",
            ("scripted",),
            slots,
            4096,
            structured,
            embeddings=True,
            tokenizer=True,
            vision=None if kind == "vllm" else False,
            chat_template=True if kind == "llamacpp" else None,
        )
        assert counts == [3, 0]

    async def test_a_busy_llama_cpp_python_is_ready(self, connect: Connect, until: Until) -> None:
        async with Scripted(kind="llama-cpp-python", latency_s=5) as server:
            backend = connect(server)
            task = asyncio.create_task(backend.chat(HELLO, CALL))
            await until(lambda: len(server.chats()) == 2)  # the first one asked for the context length
            assert [found.state for found in await backend.probe()] == [State.READY]
            task.cancel()

    async def test_probing_never_raises(self, server: Scripted, connect: Connect, dead_url: str) -> None:
        server.script({"fault": "html", "path": "/health"})
        states = [found.state for found in await connect(server, dead_url, "http://no.invalid:1").probe()]
        assert states == [State.DOWN] * 3

    async def test_no_probe_is_sent_while_a_server_works(self, server: Scripted, connect: Connect) -> None:
        backend = connect(server)
        for _ in range(5):
            await backend.chat(HELLO, CALL)
        assert [seen.path for seen in server.seen].count("/health") == 1


class TestTokens:
    async def test_a_tokenizer_that_fails_is_made_up_for(self, server: Scripted, connect: Connect) -> None:
        server.script({"fault": "status", "status": 500, "path": "/tokenize", "times": -1})
        backend = connect(server)
        [count] = await backend.count_tokens(["three little words"], CALL)
        assert count >= 3
        assert await backend.count_tokens([], CALL) == []

    async def test_a_dead_server_is_made_up_for_at_the_deadline(
        self, connect: Connect, dead_url: str
    ) -> None:
        [count] = await connect(dead_url).count_tokens(["three little words"], within(0.1))
        assert count >= 3


async def test_a_fleet_belongs_to_one_loop(server: Scripted, connect: Connect) -> None:
    backend = connect(server)
    await backend.chat(HELLO, CALL)
    with pytest.raises(RuntimeError, match="one for each loop"):
        await asyncio.to_thread(lambda: asyncio.run(backend.chat(HELLO, CALL)))


async def test_constraining_speaks_the_servers_dialect(server: Scripted, connect: Connect) -> None:
    backend = connect(server)
    schema = {"type": "object"}

    def form(structured: Any) -> Any:
        found = Capabilities("x", "m", ("m",), 1, 1, structured, embeddings=False, tokenizer=False)
        return backend.constrain(schema, found).get("response_format")

    strict = {"name": "answer", "strict": True, "schema": schema}
    assert form("json_schema") == {"type": "json_schema", "json_schema": strict}
    assert form("json_object") == {"type": "json_object", "schema": schema}
    assert form("none") is None
