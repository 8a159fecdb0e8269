"""In a chain, the text of one task becomes the input of the next."""

import pytest

from worker.contracts.base import TaskArguments
from worker.contracts.llm import ChatArguments, EmbedArguments, ExtractArguments
from worker.contracts.text import NormalizeArguments, SummarizeArguments
from worker.errors import InvalidTask
from worker.tasks.base import feed

CHAT = {"choices": [{"message": {"role": "assistant", "content": "the answer"}}], "meta": {}}


@pytest.mark.parametrize(
    ("previous", "text"),
    [
        ("as it is", "as it is"),
        ({"content": "a", "summary": "b"}, "a"),
        ({"summary": "short", "text": "long"}, "short"),
        ({"markdown": "# t"}, "# t"),
        (CHAT, "the answer"),
        ({"keywords": ["one", "two"], "count": 2}, "one, two"),
        ({"data": {"ż": 1}, "attempts": 1}, '{"ż": 1}'),
        ({"normalized": {"a": None}, "confidence": 1}, '{"a": null}'),
        ([{"summary": "one"}, "two", CHAT], "one\n\ntwo\n\nthe answer"),
    ],
)
def test_the_text_of_the_previous_result_is_taken(previous, text):
    assert feed(previous, SummarizeArguments, {"max_length": 50}) == {"max_length": 50, "text": text}


def test_a_task_keeps_the_text_it_was_given():
    assert feed({"summary": "other"}, SummarizeArguments, {"text": "mine"}) == {"text": "mine"}


def test_each_task_is_fed_into_its_own_field():
    assert feed("x", NormalizeArguments, {}) == {"request": "x"}
    assert feed("x", EmbedArguments, {}) == {"input": "x"}
    assert feed("x", ExtractArguments, {"schema": {}}) == {"schema": {}, "text": "x"}


def test_a_chat_gets_the_text_as_a_user_message():
    assert feed(CHAT, ChatArguments, {}) == {"messages": [{"role": "user", "content": "the answer"}]}


def test_messages_of_its_own_win_over_the_previous_result():
    arguments = {"schema": {}, "messages": [{"role": "user", "content": "mine"}]}
    assert feed("x", ExtractArguments, arguments) == arguments


@pytest.mark.parametrize("previous", [None, 3, {"vectors": []}, [], ["a", 3], {"text": 5}])
def test_a_result_without_text_is_refused_by_the_name_of_the_field(previous):
    with pytest.raises(InvalidTask, match="`text` is missing, and the previous task's result has no text"):
        feed(previous, SummarizeArguments, {})


def test_a_task_that_takes_nothing_says_so():
    with pytest.raises(InvalidTask, match="takes nothing from a previous one"):
        feed("x", TaskArguments, {})
