"""One long answer as server-sent events: readers that are killed, slow or many."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from worker.local.celery_worker import LocalWorker
from worker.local.gateway import LocalGateway
from worker.local.scripted import LocalScripted

WORDS = " ".join(f"wórd{number}" for number in range(600))
READERS = 500


@pytest.fixture(scope="module")
def scripted() -> Iterator[LocalScripted]:
    """It takes six seconds to say the words."""
    with LocalScripted("vllm", latency_s=6.0, tokens=5000) as server:
        server.wait_ready()
        yield server


@pytest.fixture
async def session(at_work: LocalWorker, gateway: LocalGateway) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(gateway.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def send(session: aiohttp.ClientSession) -> str:
    asked = {"messages": [{"role": "user", "content": WORDS}], "options": {"stream": True}}
    async with session.post("/v1/tasks/llm.chat?queue=interactive", json=asked) as answer:
        return str((await answer.json())["id"])


async def events(
    session: aiohttp.ClientSession, task_id: str, after: str = "", pause_s: float = 0.0
) -> AsyncIterator[tuple[str, str, dict[str, object]]]:
    """(id, kind, data) of each event."""
    headers = {"last-event-id": after} if after else {}
    async with session.get(f"/v1/tasks/{task_id}/events", headers=headers) as answer:
        assert answer.status == 200
        found: dict[str, str] = {}
        async for raw in answer.content:
            line = raw.decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                found[name] = value
            elif "data" in found:
                yield found.get("id", ""), found["event"], json.loads(found["data"])
                found = {}
                await asyncio.sleep(pause_s)


async def text_of(session: aiohttp.ClientSession, task_id: str, pause_s: float = 0.0) -> str:
    said = [
        str(data["text"])
        async for _, kind, data in events(session, task_id, pause_s=pause_s)
        if kind == "chunk"
    ]
    return "".join(said)


async def test_a_reader_that_is_killed_goes_on_where_it_was(session: aiohttp.ClientSession) -> None:
    task_id = await send(session)
    said, last, deaths, ended = "", "", 0, False
    while not ended:
        heard = 0
        async for entry_id, kind, data in events(session, task_id, last):
            if kind != "chunk":
                ended = True
                assert data["state"] == "SUCCESS"
                break
            said, last, heard = said + str(data["text"]), entry_id, heard + 1
            if heard == 7:
                deaths += 1
                break  # leaving closes the connection
    assert deaths > 3
    assert said.encode() == WORDS.encode()


async def test_five_hundred_readers_and_slow_ones_among_them(
    session: aiohttp.ClientSession, gateway: LocalGateway
) -> None:
    task_id = await send(session)
    slow = [asyncio.create_task(text_of(session, task_id, 0.15)) for _ in range(5)]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
    writer.write(f"GET /v1/tasks/{task_id}/events HTTP/1.1\r\nhost: x\r\n\r\n".encode())  # and never reads
    texts = await asyncio.gather(*(text_of(session, task_id) for _ in range(READERS)))
    assert set(texts) == {WORDS}
    assert not any(one.done() for one in slow), "they are slower than the answer"
    assert set(await asyncio.gather(*slow)) == {WORDS}
    writer.close()
    assert reader.at_eof() is False
