"""`llm.chat` and `llm.embed`: the same answers in the same shape, and the same errors, from every engine."""

import time
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def text_of(result: dict[str, Any]) -> str:
    return str(result["choices"][0]["message"]["content"])


def test_an_answer_is_an_openai_completion_with_its_account(tasks, engine) -> None:
    result = tasks.run("llm.chat", messages=user("Say hello."), max_tokens=16)
    assert result["object"] == "chat.completion"
    (choice,) = result["choices"]
    assert choice["index"] == 0
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].strip()
    assert choice["finish_reason"] in {"stop", "length"}
    usage = result["usage"]
    assert usage["prompt_tokens"] > 5
    assert 1 <= usage["completion_tokens"] <= 16
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    meta = result["meta"]
    assert meta["model"]
    assert meta["backend"] == engine.backend
    counted = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert {name: meta["usage"][name] for name in counted} == {name: usage[name] for name in counted}
    assert meta["attempts"] == 1
    assert meta["cached"] is False
    assert meta["finish_reason"] == choice["finish_reason"]
    timings = meta["timings"]
    assert timings["queue_s"] >= 0
    assert timings["total_s"] > 0
    assert timings["ttft_s"] is None or 0 <= timings["ttft_s"] <= timings["total_s"]


def test_max_tokens_cuts_an_answer_and_it_says_so(tasks) -> None:
    result = tasks.run("llm.chat", messages=user("Tell a long story about a river."), max_tokens=5)
    assert result["choices"][0]["finish_reason"] == "length"
    assert result["usage"]["completion_tokens"] == 5
    assert result["meta"]["finish_reason"] == "length"


def test_stop_ends_an_answer_before_the_word(tasks) -> None:
    question = {"messages": user("Tell a story about a river."), "max_tokens": 60, "temperature": 0}
    result = tasks.run("llm.chat", **question, stop=[" the", " a"])
    assert result["choices"][0]["finish_reason"] == "stop"
    assert " the" not in text_of(result)
    assert " a" not in text_of(result)
    assert result["usage"]["completion_tokens"] < 60


def test_the_same_seed_gives_the_same_answer_where_the_engine_promises_it(tasks, engine) -> None:
    if not engine.expected.repeats:
        pytest.skip(f"{engine.name} does not promise it: an answer may depend on what it batches with")
    question = {"messages": user("Tell a story."), "max_tokens": 32, "temperature": 0.9, "seed": 42}
    # The first time its prompt is read in one go, from then on mostly remembered: that rounds differently.
    _, *answers = (text_of(tasks.run("llm.chat", **question)) for _ in range(4))
    assert len(set(answers)) == 1


def test_text_of_any_script_comes_through(tasks) -> None:
    result = tasks.run("llm.chat", messages=user("Say: Zażółć gęślą jaźń 🙂 日本語 — „ok”."), max_tokens=24)
    assert text_of(result)


def test_a_conversation_with_a_system_message_is_answered(tasks) -> None:
    messages = [
        {"role": "system", "content": "You answer in one word."},
        *user("What colour is grass?"),
        {"role": "assistant", "content": "Green"},
        *user("What colour is the sky?"),
    ]
    assert text_of(tasks.run("llm.chat", messages=messages, max_tokens=8)).strip()


def test_a_prompt_over_the_context_fails_as_such(tasks) -> None:
    kind, message = tasks.failure("llm.chat", messages=user("river " * 3000), max_tokens=16)
    assert kind == "ContextLengthExceeded", message
    assert "Shorten the messages" in message


def test_an_unknown_model_is_refused_with_the_models_there_are(tasks) -> None:
    kind, message = tasks.failure("llm.chat", messages=user("Hello"), model="no-such-model", max_tokens=4)
    assert kind == "BackendRejected", message
    assert "no-such-model" in message
    assert "smollm2" in message.lower()


@pytest.mark.parametrize(
    "wrong",
    [
        {"response_format": {"type": "yaml"}},
        {"extra_body": {"max_tokens": "many"}},
        {"extra_body": {"messages": "hello"}},
    ],
    ids=["response_format", "max_tokens", "messages"],
)
def test_a_request_the_server_cannot_read_is_refused_at_once(tasks, wrong: dict[str, Any]) -> None:
    began_s = time.monotonic()
    kind, message = tasks.failure("llm.chat", **{"messages": user("Hello"), "max_tokens": 4, **wrong})
    assert kind == "BackendRejected", message
    assert time.monotonic() - began_s < 20
    assert text_of(tasks.run("llm.chat", messages=user("Hello"), max_tokens=4))


def test_texts_are_embedded_where_the_server_can_and_refused_with_the_remedy_elsewhere(tasks, engine) -> None:
    if engine.expected.embeddings:
        result = tasks.run("llm.embed", input=["a river", "a mountain", "ein Fluß"])
        assert result["object"] == "list"
        assert [entry["index"] for entry in result["data"]] == [0, 1, 2]
        assert {len(entry["embedding"]) for entry in result["data"]} == {576}
        assert result["meta"]["usage"]["prompt_tokens"] > 3
        return
    kind, message = tasks.failure("llm.embed", input="a river")
    assert kind == "BackendRejected", message
    assert "embedding" in message.lower()
