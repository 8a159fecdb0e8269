"""`story.continue` on every engine: as a conversation and as running text, with every sampling field."""

from uuid import uuid4

SAMPLING = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "seed": 7}


def test_a_story_goes_on_with_every_sampling_field(tasks, engine) -> None:
    story = {"session_id": uuid4().hex, "max_tokens": 16, **SAMPLING}
    first = tasks.run(
        "story.continue", prompt="Once there were two rivers.", system="You tell tales.", **story
    )
    second = tasks.run("story.continue", prompt="And then?", **story)
    assert (first["turn"], second["turn"]) == (1, 2)
    assert first["text"].strip()
    used = [result["meta"]["usage"] for result in (first, second)]
    assert all(0 < usage["completion_tokens"] <= 16 for usage in used)
    assert used[1]["prompt_tokens"] > used[0]["prompt_tokens"] + used[0]["completion_tokens"]


def test_running_text_goes_on_too(tasks, engine) -> None:
    story = {"session_id": uuid4().hex, "max_tokens": 16, "template": "plain", **SAMPLING}
    first = tasks.run("story.continue", prompt="Once upon a time there was", **story)
    second = tasks.run("story.continue", prompt="One day", options={"stream": True}, **story)
    assert first["meta"]["usage"]["prompt_tokens"] < 12
    assert second["meta"]["usage"]["prompt_tokens"] <= 12 + first["meta"]["usage"]["completion_tokens"] + 8
    assert second["meta"]["model"]
