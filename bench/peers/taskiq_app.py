"""taskiq on Redis streams, which its documentation recommends for acknowledgements.

`taskiq worker bench.peers.taskiq_app:broker --workers 1 --max-async-tasks 256`, which takes uvloop by itself.
"""

from typing import Any

from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from bench.peers import model
from bench.peers.producing import produce

results: RedisAsyncResultBackend[Any] = RedisAsyncResultBackend(
    model.REDIS_URL, result_ex_time=3600, prefix_str="result"
)
broker = RedisStreamBroker(model.REDIS_URL).with_result_backend(results)
_state: dict[str, Any] = {}


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def startup(state: TaskiqState) -> None:
    """One client for all tasks."""
    _state["session"] = model.session()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def shutdown(state: TaskiqState) -> None:
    """Close it."""
    await _state["session"].close()


@broker.task(task_name="chat")
async def chat(messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
    """The task."""
    return await model.chat(_state["session"], {"messages": messages, "max_tokens": max_tokens})


async def send() -> Any:
    """Enqueue one."""
    if "producer" not in _state:
        _state["producer"] = True
        await broker.startup()
    return await chat.kiq(**model.REQUEST)


async def ask() -> object:
    """Enqueue one and wait."""
    return await (await send()).wait_result()


if __name__ == "__main__":
    produce(send, ask)
