from typing import Any

from worker.backends.assembly import Assembly, pieces_of
from worker.backends.base import Chunk


def chunk(delta: dict[str, Any], index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m", "choices": [{"index": index, "delta": delta, **fields}]}


def assemble(*events: dict[str, Any]) -> dict[str, Any]:
    assembly = Assembly()
    for event in events:
        assembly.add(event)
    return assembly.body()


def test_text_usage_and_ending_make_a_chat_completion() -> None:
    body = assemble(
        chunk({"role": "assistant", "content": None}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk({}, finish_reason="stop"),
        {"id": "c1", "choices": [], "usage": {"total_tokens": 3}},
    )
    message = {"role": "assistant", "content": "Hello"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert body == {
        "id": "c1",
        "model": "m",
        "object": "chat.completion",
        "usage": {"total_tokens": 3},
        "choices": choices,
    }


def test_what_the_server_says_of_its_end_is_kept() -> None:
    body = assemble(
        chunk({"content": "a"}, stop_reason=None), chunk({}, finish_reason="stop", stop_reason="b")
    )
    assert body["choices"][0]["stop_reason"] == "b"


def test_tool_calls_are_put_together_by_their_index() -> None:
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x"'}}
    second = {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}
    body = assemble(
        chunk({"tool_calls": [first]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
        chunk({"tool_calls": [second]}),
        chunk({}, finish_reason="tool_calls"),
    )
    assert body["choices"][0]["message"]["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert body["choices"][0]["message"]["content"] is None


def test_several_choices_stay_apart() -> None:
    body = assemble(
        chunk({"content": "b"}, index=1),
        chunk({"content": "a"}, index=0),
        chunk({"content": "B"}, index=1),
    )
    assert [choice["message"]["content"] for choice in body["choices"]] == ["a", "bB"]


def test_new_text_is_given_once_with_its_choice() -> None:
    assembly = Assembly()
    given = [*assembly.add(chunk({"content": "x"}, index=1)), *assembly.add(chunk({}))]
    assert [(piece.text, piece.index) for piece in given] == [("x", 1)]


def test_reasoning_and_log_probabilities_are_kept() -> None:
    body = assemble(
        chunk({"reasoning_content": "hm"}, logprobs={"content": [1]}),
        chunk({"reasoning_content": "m", "content": "so"}, logprobs={"content": [2]}),
    )
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "so", "reasoning_content": "hmm"}
    assert choice["logprobs"] == {"content": [1, 2]}


def test_it_knows_when_every_choice_has_ended() -> None:
    assembly = Assembly()
    assert not assembly.finished
    assembly.add(chunk({"content": "a"}))
    assert not assembly.finished
    assembly.add(chunk({}, finish_reason="length"))
    assert assembly.finished


def test_a_text_that_runs_away_ends_there() -> None:
    assembly = Assembly()
    given = [piece.text for _ in range(2000) for piece in assembly.add(chunk({"content": "again "}))]
    assert assembly.ran_away
    (choice,) = assembly.body()["choices"]
    assert choice["finish_reason"] == "repetition"
    assert choice["message"]["content"] == "".join(given)
    assert 2000 <= len(choice["message"]["content"]) < 2300


def test_reasoning_and_the_arguments_of_tools_are_watched_too() -> None:
    blanks = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "\n" * 700}}]}
    for delta in ({"reasoning_content": "Wait. " * 500}, blanks):
        assembly = Assembly()
        assembly.add(chunk(delta))
        assert assembly.ran_away
        assert assembly.body()["choices"][0]["finish_reason"] == "repetition"


def test_a_choice_that_runs_away_does_not_end_the_others() -> None:
    assembly = Assembly()
    assembly.add(chunk({"content": "Once"}, index=1))
    assembly.add(chunk({"content": "again " * 500}, index=0))
    assert not assembly.ran_away
    assert assembly.add(chunk({"content": "again"}, index=0, finish_reason="length")) == []
    assembly.add(chunk({"content": " upon"}, index=1, finish_reason="stop"))
    assert assembly.ran_away
    choices = assembly.body()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["repetition", "stop"]
    assert choices[1]["message"]["content"] == "Once upon"


def test_an_answer_that_ends_by_itself_is_not_cut() -> None:
    assembly = Assembly()
    assembly.add(chunk({"content": "again " * 500}, finish_reason="stop"))
    assert not assembly.ran_away
    assert assembly.body()["choices"][0]["finish_reason"] == "stop"


def test_what_is_new_in_an_event_is_handed_on_whatever_it_is() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}
    assembly = Assembly()
    assert assembly.add(chunk({"role": "assistant", "content": None})) == []
    assert assembly.add(chunk({"reasoning_content": "hm"})) == [Chunk("", 0, {"reasoning_content": "hm"})]
    assert assembly.add(chunk({"content": "a"}, index=1)) == [Chunk("a", 1)]
    assert assembly.add(chunk({"tool_calls": [call]})) == [Chunk("", 0, {"tool_calls": [call]})]
    assert assembly.add(chunk({}, finish_reason="stop")) == []


def test_a_whole_answer_in_pieces_says_which_tool_call_is_which() -> None:
    calls = [{"id": "a", "function": {}}, {"id": "b", "function": {}}]
    body = {
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "text"}},
            {"index": 1, "message": {"role": "assistant", "content": None, "tool_calls": calls}},
        ]
    }
    text, tools = pieces_of(body)
    assert text == Chunk("text", 0)
    assert (tools.text, tools.index) == ("", 1)
    assert [call["index"] for call in tools.more["tool_calls"]] == [0, 1]
