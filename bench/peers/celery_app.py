"""Stock Celery, broker and results in Redis: `celery -A bench.peers.celery_app worker -P threads -c 256`.

Its tasks are synchronous, so its client is httpx's, one for a process as httpx recommends. As a producer this
module also serves our worker: TASK names the task.
"""

import os
from typing import Any

import httpx
from celery import Celery

from bench.peers import model
from bench.peers.producing import produce

app = Celery("bench", broker=model.REDIS_URL, backend=model.REDIS_URL)
TASK = os.environ.get("TASK", "bench.chat")
_clients: dict[int, httpx.Client] = {}


def _client() -> httpx.Client:
    """This process's; prefork copies the parent's memory."""
    if os.getpid() not in _clients:
        limits = httpx.Limits(max_connections=model.IN_FLIGHT, max_keepalive_connections=model.IN_FLIGHT)
        _clients[os.getpid()] = httpx.Client(base_url=model.MODEL_URL, limits=limits, timeout=60)
    return _clients[os.getpid()]


@app.task(name="bench.chat")
def chat(**request: Any) -> dict[str, Any]:
    """The task."""
    response = _client().post("/v1/chat/completions", json={"model": "bench", **request})
    answer: dict[str, Any] = response.raise_for_status().json()
    return answer


async def send() -> object:
    """Enqueue one."""
    return app.send_task(TASK, kwargs=model.REQUEST)


async def ask() -> object:
    """Enqueue one and wait; blocking, as producers of Celery do."""
    return app.send_task(TASK, kwargs=model.REQUEST).get(timeout=60)


if __name__ == "__main__":
    produce(send, ask)
