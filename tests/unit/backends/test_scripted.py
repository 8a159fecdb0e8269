"""The stand-in as a program of its own."""

import asyncio
import signal
import sys

import httpx

from worker.backends.base import BackendOptions, CallContext
from worker.backends.registry import create_backend

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
