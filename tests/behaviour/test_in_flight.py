"""Many at once, and some of them cancelled."""

import time
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

pytestmark = pytest.mark.timeout(420)

WAIT_S = 240


def question(number: int) -> dict[str, Any]:
    content = f"Write the number {number} and one fact about it."
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 24, "temperature": 0, "seed": 1}


def test_sixteen_chats_at_once_are_all_answered_and_none_is_cut(tasks, engine) -> None:
    sent = [tasks.send("llm.chat", **question(number)) for number in range(16)]
    together = [result.get(timeout=WAIT_S) for result in sent]
    for answer in together:
        choice, used = answer["choices"][0], answer["usage"]["completion_tokens"]
        assert choice["message"]["content"].strip()
        assert choice["finish_reason"] == ("length" if used == 24 else "stop")
        assert answer["meta"]["attempts"] == 1
    if engine.expected.repeats:
        alone = [tasks.run("llm.chat", **question(number)) for number in range(16)]
        assert [answer["choices"] for answer in together] == [answer["choices"] for answer in alone]


def test_revoking_running_chats_frees_the_server_for_the_next(tasks, engine, until) -> None:
    # So many that the next one would have to wait, and so long that its wait would be seen.
    endless = {
        "messages": [{"role": "user", "content": "Tell a story."}],
        "max_tokens": 1900,
        "logit_bias": {"2": -100},  # the token that ends an answer
    }
    until(lambda: engine.working_on() == 0, "an idle server")
    running = [tasks.send("llm.chat", **endless) for _ in range(engine.expected.slots or 4)]
    until(lambda: engine.working_on() == len(running), "every one of them at work", 60)

    revoked_s = time.monotonic()
    for result in running:
        result.revoke(terminate=True)
    for result in running:
        with pytest.raises(TaskRevokedError):
            result.get(timeout=WAIT_S)
    until(lambda: engine.working_on() == 0, "the server stopped generating", 15)
    tasks.run("llm.chat", **question(1))
    assert time.monotonic() - revoked_s < 20
