"""Summaries, keywords and normalised requests, against a model that says what is written here."""

import asyncio
import json
import math
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from worker.errors import BackendUnavailable, DeadlineExceeded, InvalidTask, OutputInvalid, OutputRunaway
from worker.tasks.keywords import rank
from worker.tasks.normalize import confidence
from worker.tasks.structured import Answer

LONG = " ".join(f"Sentence number {number} says that glass is made here." for number in range(2000))


def text_of(request):
    return re.search(r"<text>\n(.*)\n</text>", request["messages"][-1]["content"], re.DOTALL).group(1)


async def test_a_short_text_is_summarised_in_one_call_without_progress(run_task, scripted):
    backend = scripted(["Glass is made."])
    result = await run_task(backend, "text.summarize", text="In this town glass is made by many people.")
    meta = result.pop("meta")
    assert result == {
        "summary": "Glass is made.",
        "original_length": 9,
        "summary_length": 3,
        "compression_ratio": 0.3333,
    }
    assert meta["usage"]["completion_tokens"] == 5
    assert run_task.progress == []


async def test_a_long_text_is_summarised_in_parts_that_are_joined(run_task, scripted):
    pieces = []

    def answer(request):
        pieces.append(text_of(request))
        return f"Part {len(pieces)} is about glass."

    backend = scripted(answer)
    result = await run_task(backend, "text.summarize", text=LONG)
    assert "".join(pieces[:-1]) == LONG
    assert pieces[-1].startswith("Part 1 is about glass.\n\nPart 2 is about glass.")
    assert result["summary"] == f"Part {len(pieces)} is about glass."
    assert 1 < backend.most_in_flight <= 16
    assert "summaries of consecutive parts" in backend.prompts()[-1]


async def test_progress_counts_every_call_and_never_goes_back(run_task, scripted):
    backend = scripted(lambda _: "This part is about how glass is made here. " * 6)
    await run_task(backend, "text.summarize", text=LONG * 3)
    done, total, units = zip(*run_task.progress, strict=True)
    assert list(done) == sorted(done)
    assert all(part <= whole for part, whole, _ in run_task.progress)
    assert done[-1] == total[-1] == len(backend.requests)
    assert len(set(total)) <= 3
    assert set(units) == {"chunks"}


async def test_no_request_is_longer_than_the_context(run_task, scripted, capabilities):
    backend = scripted(lambda _: "Glass is made here by hand and sold. " * 40)
    await run_task(backend, "text.summarize", text=LONG, max_length=5000)
    for request in backend.requests:
        (prompt,) = await backend.count_tokens([request["messages"][-1]["content"]], None)
        assert prompt + request["max_tokens"] + 50 <= capabilities.context_length


async def test_a_summary_is_never_longer_than_asked(run_task, scripted):
    result = await run_task(scripted(["word " * 500]), "text.summarize", text="a b " * 300, max_length=20)
    assert result["summary_length"] == 20


RUNAWAY = ("Glass is made. Glass is made. Glass is", "repetition")


async def test_a_summary_that_ran_away_is_asked_for_once_more_with_a_penalty(run_task, scripted):
    backend = scripted([RUNAWAY, "Glass is made."])
    result = await run_task(backend, "text.summarize", text="a b " * 300)
    assert result["summary"] == "Glass is made."
    assert result["meta"]["attempts"] == 2
    first, second = backend.requests
    assert second == {**first, "frequency_penalty": 0.5}


@pytest.mark.parametrize(("sampling", "calls"), [({}, 2), ({"frequency_penalty": 1.0}, 1)])
async def test_half_a_loop_is_no_summary(run_task, scripted, sampling, calls):
    backend = scripted([RUNAWAY] * calls)
    with pytest.raises(OutputRunaway, match=r"Glass is made\. Glass is"):
        await run_task(backend, "text.summarize", text="a b " * 300, **sampling)
    assert len(backend.requests) == calls


async def test_a_chat_that_ran_away_keeps_what_came(run_task, scripted):
    result = await run_task(scripted([RUNAWAY]), "llm.chat", messages=[{"role": "user", "content": "Go on."}])
    assert result["choices"][0]["message"]["content"] == RUNAWAY[0]
    assert result["choices"][0]["finish_reason"] == result["meta"]["finish_reason"] == "repetition"


async def test_a_summary_the_limit_cut_off_ends_with_a_whole_word(run_task, scripted):
    backend = scripted([("It opened in 1998. Then it was mod", "length")])
    result = await run_task(backend, "text.summarize", text="a b " * 300)
    assert result["summary"] == "It opened in 1998. Then it was…" or result["summary"] == "It opened in 1998."


@pytest.mark.parametrize("name", ["text.summarize", "text.keywords"])
async def test_an_empty_text_is_refused(run_task, scripted, name):
    with pytest.raises(InvalidTask, match="`text` is empty"):
        await run_task(scripted([]), name, text=" \n\t")


async def test_a_model_that_says_nothing_is_an_error(run_task, scripted):
    with pytest.raises(OutputInvalid, match="answered with nothing"):
        await run_task(scripted(["  "]), "text.summarize", text="words")


async def test_a_model_that_does_not_shorten_is_an_error_not_a_loop(run_task, scripted):
    with pytest.raises(OutputInvalid, match="does not shorten"):
        await run_task(scripted(lambda _: "x" * 20_000), "text.summarize", text=LONG)


async def test_one_failed_part_fails_the_task_and_cancels_the_others(run_task, scripted):
    def answer(request):
        if "number 0 " in text_of(request):
            return BackendUnavailable("gone.")
        return asyncio.get_running_loop().create_future()

    backend = scripted(answer)
    with pytest.raises(BackendUnavailable, match="gone"):
        await run_task(backend, "text.summarize", text=LONG)
    assert backend.in_flight == 0


async def test_a_passed_deadline_stops_the_work_between_parts(run_task, scripted):
    backend = scripted([])
    with pytest.raises(DeadlineExceeded):
        await run_task(backend, "text.summarize", deadline=time.monotonic() - 1, text=LONG)
    assert backend.requests == []


async def test_the_summary_is_asked_for_in_the_language_of_the_text_or_the_one_given(run_task, scripted):
    polish = "Zakład wytwarza butelki dla browarów w kraju i za granicą."
    backend = scripted(["x", "y"])
    await run_task(backend, "text.summarize", text=polish)
    await run_task(backend, "text.summarize", text=polish, language="de")
    assert "Streść tekst" in backend.prompts()[0]
    assert "Schreibe auf Deutsch" in backend.prompts()[1]


async def test_a_referenced_text_is_read(run_task, scripted, tmp_path):
    (tmp_path / "a.txt").write_text("Glass is made here.")
    backend = scripted(["Glass."])
    await run_task(backend, "text.summarize", text={"path": str(tmp_path / "a.txt")})
    assert text_of(backend.requests[0]) == "Glass is made here."


async def test_keywords_are_distinct_whatever_their_case_and_no_more_than_asked(run_task, scripted):
    answer = json.dumps({"keywords": ["Glass", "glass", " GLASS.", "bottle", "!", "furnace"]})
    result = await run_task(scripted([answer]), "text.keywords", text="Glass bottle", max_keywords=8)
    assert result["keywords"] == ["Glass", "bottle", "furnace"]
    assert result["count"] == 3
    assert run_task.progress == []


async def test_keywords_of_a_long_text_come_from_every_part(run_task, scripted):
    def answer(request):
        number = re.search(r"number (\d+)", text_of(request)).group(1)
        return json.dumps({"keywords": ["glass", f"part {number}"]})

    backend = scripted(answer)
    result = await run_task(backend, "text.keywords", text=LONG, max_keywords=5)
    assert result["keywords"][0] == "glass"
    assert result["count"] == 5
    assert run_task.progress[-1] == (len(backend.requests), len(backend.requests), "chunks")


async def test_more_keywords_than_the_context_has_room_for_are_not_asked_for(
    run_task, scripted, capabilities
):
    backend = scripted(['{"keywords": ["glass"]}'])
    await run_task(backend, "text.keywords", text="Glass", max_keywords=100)
    assert backend.requests[0]["max_tokens"] < capabilities.context_length / 2


def test_what_many_parts_name_and_the_text_says_ranks_first():
    proposals = [("glass glass furnace", ["unicorn", "glass"]), ("glass and sand", ["sand", "glass"])]
    assert rank(proposals) == ["glass", "sand", "unicorn"]


def test_the_commonest_spelling_is_kept():
    assert rank([("", ["NASA"]), ("", ["Nasa"]), ("", ["NASA"])]) == ["NASA"]


SCHEMA = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}


async def test_examples_are_shown_as_answered_questions(run_task, scripted):
    backend = scripted(['{"count": 2}'])
    examples = [{"request": "a beer", "normalized": {"count": 1}}]
    result = await run_task(backend, "text.normalize", request="two beers", schema=SCHEMA, examples=examples)
    assert (result["normalized"], result["confidence"]) == ({"count": 2}, 0.5)
    question, answer, request = backend.requests[0]["messages"]
    assert "a request somebody wrote" in question["content"]
    assert question["content"].endswith("<text>\na beer\n</text>")
    assert answer == {"role": "assistant", "content": '{"count": 1}'}
    assert request["content"] == "<text>\ntwo beers\n</text>"


async def test_an_example_that_contradicts_the_schema_is_refused(run_task, scripted):
    examples = [{"request": "a beer", "normalized": {"count": "one"}}]
    with pytest.raises(
        InvalidTask, match=r"`examples\.0\.normalized` does not satisfy `schema`: at `\$\.count`"
    ):
        await run_task(scripted([]), "text.normalize", request="x", schema=SCHEMA, examples=examples)


async def test_an_answer_that_needed_repair_is_trusted_less(run_task, scripted):
    backend = scripted(['{"count": "two"}', '{"count": 2}'])
    assert (await run_task(backend, "text.normalize", request="two", schema=SCHEMA))["confidence"] == 0.25


def test_confidence_is_the_mean_probability_of_the_tokens_that_say_something():
    tokens = [('{"', -9.0), ("count", math.log(0.5)), ('":', -9.0), (" 2", 0.0)]
    content = [{"token": token, "logprob": logprob} for token, logprob in tokens]
    reply = SimpleNamespace(body={"choices": [{"logprobs": {"content": content}}]})
    assert confidence(Answer({"count": 2}, 1, reply)) == 0.75


@pytest.mark.parametrize(
    ("server", "asked"), [("llama.cpp", True), ("vllm", True), ("llama-cpp-python", False)]
)
async def test_probabilities_are_asked_only_of_servers_that_tell(
    run_task, scripted, capabilities, server, asked
):
    backend = scripted(['{"count": 2}'], replace(capabilities, server=server))
    await run_task(backend, "text.normalize", request="two", schema=SCHEMA)
    assert ("logprobs" in backend.requests[0]) == asked


async def test_an_empty_request_is_refused(run_task, scripted):
    with pytest.raises(InvalidTask, match="`request` is empty"):
        await run_task(scripted([]), "text.normalize", request=" ", schema=SCHEMA)


async def test_an_unknown_context_is_taken_for_a_small_one(run_task, scripted, capabilities):
    backend = scripted(lambda _: "Glass.", replace(capabilities, context_length=None))
    await run_task(backend, "text.summarize", text=LONG)
    assert len(backend.requests) > 5
