"""How every asyncio peer calls the model: aiohttp with as little around it as can be.

httpx, which most people would use, costs many times as much with hundreds of connections; with aiohttp it is
the queues that are compared.
"""

import os
from typing import Any

import aiohttp

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
MODEL_URL = os.environ.get("MODEL_URL", "http://127.0.0.1:8000")
IN_FLIGHT = int(os.environ.get("IN_FLIGHT", "256"))
#: The chat that is asked: a short answer, for our worker streams one that may be long, to cut it if need be.
REQUEST: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Say something."}],
    "max_tokens": 20,
}


def session() -> aiohttp.ClientSession:
    """A client for the running loop, without a limit on its connections."""
    return aiohttp.ClientSession(MODEL_URL, connector=aiohttp.TCPConnector(limit=0))


async def chat(client: aiohttp.ClientSession, request: dict[str, Any]) -> dict[str, Any]:
    """One chat; the answer as the server gave it."""
    async with client.post("/v1/chat/completions", json={"model": "bench", **request}) as response:
        response.raise_for_status()
        answer: dict[str, Any] = await response.json()
        return answer
