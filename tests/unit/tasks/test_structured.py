"""JSON that validates, or an error that says why."""

import json

import pytest

from worker.errors import (
    BackendRejected,
    ContextLengthExceeded,
    InvalidTask,
    OutputInvalid,
    OutputRunaway,
)

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}
GOOD = '{"name": "Ada", "age": 36}'
BAD = '{"name": "Ada", "age": -1}'


async def extract(run_task, backend, **arguments):
    return await run_task(backend, "llm.extract", **{"text": "Ada is 36.", "schema": SCHEMA, **arguments})


async def test_a_valid_answer_is_returned_with_its_account(run_task, scripted):
    backend = scripted([GOOD])
    result = await extract(run_task, backend)
    assert (result["data"], result["attempts"]) == ({"name": "Ada", "age": 36}, 1)
    assert result["meta"]["usage"]["total_tokens"] == 15
    assert backend.requests[0]["response_format"]["json_schema"]["schema"] == SCHEMA


async def test_the_prompt_holds_the_schema_and_the_text_in_a_block_of_its_own(run_task, scripted):
    backend = scripted([GOOD])
    await extract(run_task, backend)
    (prompt,) = backend.prompts()
    assert json.dumps(SCHEMA, separators=(",", ":")) in prompt
    assert prompt.endswith("<text>\nAda is 36.\n</text>")


async def test_a_wrong_answer_is_shown_to_the_model_with_the_reason(run_task, scripted):
    backend = scripted([BAD, GOOD])
    assert (await extract(run_task, backend))["attempts"] == 2
    first, repair = backend.requests
    assert repair["messages"][: len(first["messages"])] == first["messages"]
    shown, asked = repair["messages"][-2:]
    assert shown == {"role": "assistant", "content": BAD}
    assert "`$.age`: -1 is less than the minimum of 0" in asked["content"]


async def test_after_every_repair_the_task_fails_with_path_and_reason(run_task, scripted):
    backend = scripted([BAD] * 3)
    with pytest.raises(
        OutputInvalid, match=r"after 3 attempts: at `\$\.age`: -1 is less than the minimum of 0"
    ):
        await extract(run_task, backend)
    assert len(backend.requests) == 3


async def test_no_repair_is_made_where_none_is_allowed(run_task, scripted):
    backend = scripted([BAD])
    with pytest.raises(OutputInvalid, match="after 1 attempt"):
        await extract(run_task, backend, max_repairs=0)


@pytest.mark.parametrize(
    "answer",
    [
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```",
        f"Here is the JSON:\n{GOOD}",
        f"Sure!\n\n```json\n{GOOD}\n```\nAnything else?",
        f"\n {GOOD} \n",
    ],
)
async def test_words_and_fences_around_the_json_are_passed_over(run_task, scripted, answer):
    assert (await extract(run_task, scripted([answer])))["attempts"] == 1


async def test_a_fence_inside_a_string_is_part_of_the_string(run_task, scripted):
    answer = json.dumps({"name": "```json\n{}\n```", "age": 1})
    assert (await extract(run_task, scripted([answer])))["data"]["name"] == "```json\n{}\n```"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "it is not JSON"),
        ("I cannot help with that.", "it is not JSON"),
        ('{"name": "Ada", "age": NaN}', "NaN is not a JSON number"),
        ('{"name": "Ada", "age": 1e999}', "is too large"),
        ('{"name": "\\ud800", "age": 1}', "lone surrogate"),
        ('{"name": "\\u0000", "age": 1}', "NUL byte"),
        ("[" * 100_000, "it is nested too deeply"),
        ("[" * 500 + "]" * 500, "nested more than 64 levels"),
        ('{"name": "Ada", "age": ' + "1" * 5000 + "}", "it is not JSON"),
        ("null", "None is not of type 'object'"),
    ],
)
async def test_what_is_no_json_is_refused_with_a_reason(run_task, scripted, answer, reason):
    with pytest.raises(OutputInvalid, match=reason):
        await extract(run_task, scripted([answer]), max_repairs=0)


async def test_a_cut_answer_gets_twice_the_room_in_its_repair(run_task, scripted):
    backend = scripted([('{"name": "Ad', "length"), GOOD])
    await extract(run_task, backend)
    assert backend.requests[1]["max_tokens"] > backend.requests[0]["max_tokens"]


async def test_an_answer_cut_at_the_callers_limit_says_to_raise_it(run_task, scripted):
    backend = scripted([('{"name": "Ad', "length")] * 3)
    with pytest.raises(OutputInvalid, match=r"cut off after 20 tokens; raise max_tokens"):
        await extract(run_task, backend, max_tokens=20)
    assert {request["max_tokens"] for request in backend.requests} == {20}


async def test_a_number_cut_in_the_middle_is_not_taken_for_the_answer(run_task, scripted):
    backend = scripted([("12", "length")])
    with pytest.raises(OutputInvalid, match="cut off"):
        await extract(run_task, backend, schema={"type": "integer"}, max_repairs=0)


RUNAWAY = ('{"name": "Ada Ada Ada Ada', "repetition")


async def test_an_answer_that_ran_away_is_asked_for_again_with_a_penalty_on_repetition(run_task, scripted):
    backend = scripted([RUNAWAY, GOOD])
    assert (await extract(run_task, backend))["attempts"] == 2
    first, second = backend.requests
    assert second == {**first, "frequency_penalty": 0.5}


async def test_the_callers_own_penalty_stays(run_task, scripted):
    backend = scripted([RUNAWAY, GOOD])
    await extract(run_task, backend, frequency_penalty=0.1)
    assert backend.requests[1]["frequency_penalty"] == 0.1


async def test_an_answer_that_runs_away_every_time_is_named_so(run_task, scripted):
    backend = scripted([RUNAWAY] * 3)
    with pytest.raises(OutputRunaway, match=r"repeats itself without end: ….*Ada Ada.* frequency_penalty"):
        await extract(run_task, backend)
    assert len(backend.requests) == 3


async def test_a_valid_answer_followed_by_blanks_without_end_counts(run_task, scripted):
    result = await extract(run_task, scripted([(GOOD + "\n" * 500, "repetition")]))
    assert result["data"] == {"name": "Ada", "age": 36}
    assert result["meta"]["finish_reason"] == "repetition"


async def test_a_number_that_never_ended_is_not_taken_for_the_answer(run_task, scripted):
    with pytest.raises(OutputRunaway):
        await extract(
            run_task, scripted([("1" * 100, "repetition")]), schema={"type": "integer"}, max_repairs=0
        )


async def test_the_answer_is_given_what_the_context_leaves(run_task, scripted):
    backend = scripted([GOOD])
    await extract(run_task, backend, text="word " * 1500)
    assert 16 <= backend.requests[0]["max_tokens"] < 450


async def test_a_text_longer_than_the_context_is_refused_before_the_model_is_asked(run_task, scripted):
    backend = scripted([])
    with pytest.raises(ContextLengthExceeded, match="the model's context 2,048"):
        await extract(run_task, backend, text="word " * 3000)


async def test_a_refused_constraint_is_dropped_for_weaker_ones(run_task, scripted):
    backend = scripted([BackendRejected("pattern is not supported."), BackendRejected("neither."), BAD, GOOD])
    assert (await extract(run_task, backend))["attempts"] == 2
    formats = [request.get("response_format", {}).get("type") for request in backend.requests]
    assert formats == ["json_schema", "json_object", None, None]


async def test_plain_json_mode_is_skipped_where_the_answer_is_no_object(run_task, scripted):
    backend = scripted([BackendRejected("no."), "[1]"])
    await extract(run_task, backend, schema={"type": "array"})
    assert "response_format" not in backend.requests[1]


async def test_a_request_refused_without_any_constraint_is_refused(run_task, scripted):
    with pytest.raises(BackendRejected, match="no such model"):
        await extract(run_task, scripted([BackendRejected("no such model")] * 3))


async def test_the_callers_sampling_reaches_the_model(run_task, scripted):
    backend = scripted([GOOD])
    await extract(run_task, backend, temperature=0.9, seed=7, model="other", max_tokens=99)
    sent = backend.requests[0]
    assert (sent["temperature"], sent["seed"], sent["model"], sent["max_tokens"]) == (0.9, 7, "other", 99)


async def test_a_conversation_is_kept_and_asked_for_json_at_its_end(run_task, scripted):
    backend = scripted([GOOD])
    messages = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "Ada is 36."}]
    await run_task(backend, "llm.extract", messages=messages, schema=SCHEMA)
    system, user = backend.requests[0]["messages"]
    assert system == messages[0]
    assert user["content"].startswith("Ada is 36.\n\n")
    assert '"required":["name","age"]' in user["content"]


async def test_after_an_assistants_message_the_wish_is_a_message_of_its_own(run_task, scripted):
    backend = scripted([GOOD])
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada, 36."}]
    await run_task(backend, "llm.extract", messages=messages, schema=SCHEMA)
    assert [message["role"] for message in backend.requests[0]["messages"]] == ["user", "assistant", "user"]


async def test_an_empty_text_is_refused(run_task, scripted):
    with pytest.raises(InvalidTask, match="`text` is empty"):
        await extract(run_task, scripted([]), text=" \n")
