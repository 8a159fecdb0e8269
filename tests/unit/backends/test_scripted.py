"""The stand-in itself: as a program of its own, what it can do wrong and what it tells of it."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from worker.backends.base import BackendOptions, CallContext
from worker.backends.registry import create_backend
from worker.backends.scripted import Scripted
from worker.backends.scripted_seen import Memory
from worker.local.scripted import LocalScripted

Until = Callable[..., Awaitable[None]]

HELLO = {"messages": [{"role": "user", "content": "Hello to you"}]}


async def test_it_runs_as_a_process_takes_a_script_and_tells_what_it_saw() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker.backends.scripted", "--port", "0", "--kind", "vllm", "--tokens", "2"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    backend = create_backend("vllm", BackendOptions(urls=(url,)))
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as tester:
            assert (await tester.post("/_script", json={"fault": "unheard of"})).status_code == 400
            await tester.post("/_script", json=[{"fault": "content", "content": "As told"}])
            assert (await backend.chat(HELLO, CallContext(task_id="1"))).text == "As told"
            reply = await backend.chat(HELLO, CallContext(task_id="2"))
            assert (reply.text, reply.finish_reason) == ("Hello to", "length")
            seen = (await tester.get("/_seen")).json()
            assert "vllm:num_requests_running 0" in (await tester.get("/metrics")).text
        chats = [entry for entry in seen["requests"] if entry["path"] == "/v1/chat/completions"]
        assert [(entry["request_id"], entry["outcome"]) for entry in chats] == [
            ("1", "answered"),
            ("2", "answered"),
        ]
        assert seen["most_in_flight"] == 1
    finally:
        await backend.aclose()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


async def post(server: Scripted, request_id: str = "", **fields: object) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=5) as client:
        headers = {"x-request-id": request_id}
        return await client.post("/v1/chat/completions", json={**HELLO, **fields}, headers=headers)


async def seen(server: Scripted, after: int = -1) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        found: dict[str, Any] = (await client.get("/_seen", params={"after": after})).json()
        return found


async def test_it_tells_when_each_request_began_and_how_and_when_it_ended(server: Scripted) -> None:
    server.latency_s = 0.05
    await post(server, "answered")
    server.script({"fault": "hang"}, {"fault": "status", "status": 500})
    with pytest.raises(httpx.ReadTimeout):
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=0.1) as client:
            await client.post("/v1/chat/completions", json=HELLO, headers={"x-request-id": "hung"})
    await post(server, "faulted")
    told = await seen(server)
    answered, hung, faulted = told["requests"]
    assert [request["outcome"] for request in told["requests"]] == ["answered", "disconnected", "faulted"]
    assert [request["request_id"] for request in told["requests"]] == ["answered", "hung", "faulted"]
    assert answered["ended_s"] - answered["started_s"] >= 0.05
    assert answered["ended_s"] <= hung["started_s"] < hung["ended_s"] <= faulted["started_s"] <= told["now_s"]
    assert (told["total"], told["in_flight"], told["most_in_flight"]) == (3, 0, 1)
    assert [request["number"] for request in (await seen(server, after=0))["requests"]] == [1, 2]


async def test_it_forgets_old_requests_and_counts_them_all() -> None:
    async with Scripted(memory=Memory(keep=3, bodies=False)) as server:
        for number in range(5):
            await post(server, str(number))
        told = await seen(server)
    assert [request["request_id"] for request in told["requests"]] == ["2", "3", "4"]
    assert [request["body"] for request in told["requests"]] == [None] * 3
    assert told["total"] == 5


async def test_its_record_outlives_a_kill(tmp_path: Path, until: Until) -> None:
    record = tmp_path / "record"
    local = LocalScripted(latency_s=0.0, record=str(record))
    try:
        local.wait_ready()
        local.script({"fault": "hang", "request_id": "cut"})
        async with httpx.AsyncClient(base_url=local.url, trust_env=False) as client:
            await client.post("/v1/chat/completions", json=HELLO, headers={"x-request-id": "whole"})
            cut = asyncio.create_task(
                client.post("/v1/chat/completions", json=HELLO, headers={"x-request-id": "cut"})
            )
            await until(lambda: local.seen()["in_flight"] == 1)
            local.process.kill()
            with pytest.raises(httpx.RemoteProtocolError):
                await cut
    finally:
        local.stop()
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [(line["request_id"], line["outcome"]) for line in lines] == [
        ("whole", "running"),
        ("whole", "answered"),
        ("cut", "running"),
    ]


async def test_a_fault_may_last_for_a_while_and_come_late(server: Scripted) -> None:
    server.script({"fault": "status", "status": 503, "for_s": 2.0, "after_s": 0.05})
    started = time.monotonic()
    statuses = [(await post(server)).status_code for _ in range(2)]
    assert statuses == [503, 503]
    assert time.monotonic() - started >= 0.1
    while (await post(server)).status_code == 503:
        assert time.monotonic() - started < 60
    assert time.monotonic() - started >= 2.0


@pytest.mark.parametrize("size", [-20, 20])
async def test_a_length_may_be_wrong_either_way(server: Scripted, size: int) -> None:
    server.script({"fault": "wrong_length", "bytes": size})
    if size > 0:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(server)
    else:
        with pytest.raises(json.JSONDecodeError):
            (await post(server)).json()


async def test_a_drip_may_come_to_its_end(server: Scripted) -> None:
    server.script({"fault": "drip", "seconds": 0.001, "pieces": 3, "times": 2})
    assert (await post(server)).json()["choices"][0]["message"]["content"] == "At last"
    streamed = (await post(server, stream=True)).text
    assert streamed.count("data: {") == 3
    assert streamed.endswith("data: [DONE]\n\n")


async def test_past_its_best_it_brings_less_altogether() -> None:
    async with Scripted(latency_s=0.1, degrades_past=2) as server:
        started = time.monotonic()
        await asyncio.gather(*(post(server) for _ in range(6)))
    assert time.monotonic() - started > 3 * 0.1, "three times as many take longer than one after another"


async def test_what_waits_in_a_vllm_shows_in_its_metrics(until: Until) -> None:
    async with Scripted(kind="vllm", slots=1) as server:
        server.latency_s = 5
        running = [asyncio.create_task(post(server)) for _ in range(3)]
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            await until(lambda: server.waiting == 2)
            text = (await client.get("/metrics")).text
        assert "vllm:num_requests_waiting 2" in text
        assert "vllm:num_requests_running 1" in text
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
