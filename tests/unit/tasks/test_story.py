"""A story's turns, against a model that says what the test wrote down; real SQL underneath."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from worker.backends.base import Json
from worker.database.line import Key
from worker.database.stories import Said, add_turn, find, make, messages
from worker.database.stories import Story as Kept
from worker.errors import (
    BackendRejected,
    BackendUnavailable,
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidTask,
    OutputRunaway,
)

KEY = Key("", "s")


async def tell(run_task: Any, backend: Any, prompt: str = "And then?", **more: Any) -> Json:
    result: Json = await run_task(backend, "story.continue", **{"session_id": "s", "prompt": prompt, **more})
    return result


def history(run_task: Any) -> list[tuple[int, str, str]]:
    said = run_task.stories.database.read(lambda one: messages(one, KEY))
    return [(one.turn, one.role, one.content) for one in said]


async def test_both_sides_are_remembered_and_shown_again(run_task: Any, scripted: Any) -> None:
    backend = scripted(["One.", "Two."])
    first = await tell(run_task, backend, "Begin.", system="Be brief.", temperature=0.5)
    second = await tell(run_task, backend, "Go on.", top_k=5)
    assert (first["text"], first["turn"], second["text"], second["turn"]) == ("One.", 1, "Two.", 2)
    assert first["session_id"] == "s"
    assert backend.requests[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Begin."},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "Go on."},
    ]
    assert backend.requests[0]["temperature"] == 0.5
    assert backend.requests[1]["top_k"] == 5
    assert history(run_task) == [
        (1, "user", "Begin."), (1, "assistant", "One."), (2, "user", "Go on."), (2, "assistant", "Two."),
    ]  # fmt: skip


async def test_a_task_delivered_again_is_told_its_turn(run_task: Any, scripted: Any) -> None:
    backend = scripted(["One."])
    first = await tell(run_task, backend, task_id="same")
    again = await tell(run_task, backend, task_id="same")
    assert (again["text"], again["turn"]) == (first["text"], 1)
    assert again["meta"]["cached"]
    assert again["meta"]["usage"] == first["meta"]["usage"]
    assert again["meta"]["model"] == first["meta"]["model"]
    assert len(backend.requests) == 1
    assert len(history(run_task)) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (BackendUnavailable("gone"), BackendUnavailable),
        (("again and again", "repetition"), OutputRunaway),
    ],
)
async def test_a_turn_that_fails_leaves_nothing(
    run_task: Any, scripted: Any, answer: Any, error: Any
) -> None:
    with pytest.raises(error):
        await tell(run_task, scripted([answer]))
    assert history(run_task) == []
    assert (await tell(run_task, scripted(["One."])))["turn"] == 1


async def test_a_cancelled_turn_leaves_nothing_and_the_next_one_does_not_wait(
    run_task: Any, scripted: Any
) -> None:
    begun = asyncio.Event()

    async def slow() -> str:
        begun.set()
        await asyncio.sleep(60)
        return "never"

    turn = asyncio.create_task(tell(run_task, scripted([slow()])))
    await begun.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert history(run_task) == []
    assert (await tell(run_task, scripted(["One."]), options={"deadline_s": 20}))["turn"] == 1


async def test_turns_of_one_story_follow_each_other_and_of_two_do_not(run_task: Any, scripted: Any) -> None:
    backend = scripted(lambda request: slowly(request["messages"][-1]["content"]))

    async def slowly(prompt: str) -> str:
        await asyncio.sleep(0.02)
        return f"to {prompt}"

    async def later(number: int) -> Json:
        await asyncio.sleep(number * 0.005)  # in this order
        return await tell(run_task, backend, f"{number}")

    results = await asyncio.gather(*map(later, range(8)))
    assert [result["turn"] for result in results] == list(range(1, 9))
    assert backend.most_in_flight == 1
    assert [content for _, role, content in history(run_task) if role == "user"] == [f"{n}" for n in range(8)]
    await asyncio.gather(*(tell(run_task, backend, session_id=f"other {n}") for n in range(4)))
    assert backend.most_in_flight > 1


async def test_waiting_for_a_turn_ends_with_the_deadline(run_task: Any, scripted: Any) -> None:
    async with run_task.stories.alone(KEY):
        with pytest.raises(DeadlineExceeded, match="Other turns of story 's' came first"):
            await tell(run_task, scripted([]), deadline=time.monotonic() + 0.05)
    assert (await tell(run_task, scripted(["One."])))["turn"] == 1


async def test_a_story_that_no_longer_fits_is_cut_once_in_a_while(
    run_task: Any, scripted: Any, capabilities: Any
) -> None:
    backend = scripted(lambda _: "word " * 40, replace(capabilities, context_length=1024))
    backend.completion_tokens = 40
    cuts = 0
    for number in range(40):
        await tell(
            run_task, backend, f"Prompt number {number} with some words in it", max_tokens=64, system="Tell."
        )
        now = backend.requests[-1]["messages"]
        assert now[0] == {"role": "system", "content": "Tell."}
        if number:
            before = backend.requests[-2]["messages"]
            cuts += now[: len(before)] != before
    assert 1 <= cuts <= 8
    assert run_task.stories.database.read(lambda one: find(one, KEY)).kept_from > 10
    assert len(history(run_task)) == 80


async def test_a_server_that_finds_it_too_long_is_shown_less(run_task: Any, scripted: Any) -> None:
    def answer(request: Json) -> Any:
        return ContextLengthExceeded("too long") if len(request["messages"]) > 3 else "Yes."

    backend = scripted(answer)
    for number in range(4):
        assert (await tell(run_task, backend))["turn"] == number + 1


async def test_a_prompt_too_long_by_itself_is_refused(run_task: Any, scripted: Any) -> None:
    backend = scripted([])
    with pytest.raises(ContextLengthExceeded, match=r"The prompt has \d,\d+ tokens"):
        await tell(run_task, backend, "word " * 3000)
    assert backend.requests == []


async def test_an_answer_gets_half_of_a_short_context_at_most(
    run_task: Any, scripted: Any, capabilities: Any
) -> None:
    backend = scripted(["One."], replace(capabilities, context_length=1024))
    await tell(run_task, backend, max_tokens=4096)
    assert backend.requests[0]["max_tokens"] == 512


async def test_a_base_model_goes_on_with_the_text(run_task: Any, scripted: Any, capabilities: Any) -> None:
    backend = scripted([" there was a dog.", " It barked."], replace(capabilities, chat_template=False))
    await tell(run_task, backend, "Once upon a time", system="A story.")
    await tell(run_task, backend, "One day")
    assert [request.get("prompt") for request in backend.requests] == [
        "A story.\n\nOnce upon a time",
        "A story.\n\nOnce upon a time there was a dog.\n\nOne day",
    ]
    assert "messages" not in backend.requests[0]


async def test_a_base_model_that_says_so_only_when_asked(run_task: Any, scripted: Any) -> None:
    refused = BackendRejected(
        "default chat template is no longer allowed, so you must provide a chat template"
    )
    backend = scripted(lambda request: " well." if "prompt" in request else refused)
    await tell(run_task, backend, "All is")
    await tell(run_task, backend, "And")
    assert [("prompt" in request) for request in backend.requests] == [False, True, True]  # it is remembered
    with pytest.raises(BackendRejected):
        await tell(run_task, backend, "And", template="chat")


async def test_what_was_imported_is_counted_once(run_task: Any, scripted: Any) -> None:
    def imported(connection: Any) -> None:
        make(connection, Kept(KEY, turns=200))
        for number in range(1, 201):
            said = [Said("user", f"Question {number} with words"), Said("assistant", "An answer with words")]
            add_turn(connection, KEY, number, said, None, {})

    run_task.stories.database.write(imported)
    backend = scripted(["One.", "Two."])
    counted: list[int] = []
    count = backend.count_tokens

    async def counting(texts: Any, context: Any) -> Any:
        counted.append(len(texts))
        return await count(texts, context)

    backend.count_tokens = counting
    assert (await tell(run_task, backend))["turn"] == 201
    assert sum(counted) > 50
    counted.clear()
    await tell(run_task, backend)
    assert sum(counted) == 1
    assert backend.requests[1]["messages"][:-2] == backend.requests[0]["messages"]


async def test_stories_of_two_tenants_do_not_meet(run_task: Any, scripted: Any) -> None:
    backend = scripted(["One.", "Other."])
    await tell(run_task, backend, options={"tenant": "a"})
    result = await tell(run_task, backend, options={"tenant": "b"})
    assert result["turn"] == 1
    assert len(backend.requests[1]["messages"]) == 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"session_id": ""}, "`session_id`"),
        ({"session_id": "x" * 201}, "`session_id`"),
        ({"prompt": ""}, "`prompt`"),
        ({"max_tokens": 15}, "`max_tokens`"),
        ({"max_tokens": 4097}, "`max_tokens`"),
        ({"template": "raw"}, "`template`"),
        ({"options": {"cache": True}}, "`options`: a story has no use for `cache`"),
        ({"sesion_id": "x"}, "did you mean `session_id`?"),
    ],
)
async def test_wrong_arguments_are_named(run_task: Any, scripted: Any, more: Json, says: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        await tell(run_task, scripted([]), **more)
    assert says in str(caught.value)


async def test_half_a_character_at_the_end_of_an_answer_is_no_trouble(run_task, scripted):
    for number, answer in enumerate(["good \ud83d", "nothing\0"], 1):
        told = await run_task(scripted([answer]), "story.continue", session_id="s", prompt="Go on.")
        assert told["turn"] == number
        assert told["text"] in {"good ?", "nothing"}
