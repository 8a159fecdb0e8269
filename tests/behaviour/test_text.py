"""`text.*` and `llm.extract` on every engine."""

from typing import Any

import pytest

pytestmark = pytest.mark.timeout(420)

WAIT_S = 400
FACTS = (
    "The Vistula is the longest river in Poland.",
    "It rises in the Beskids and flows through Kraków and Warsaw to the Baltic Sea near Gdańsk.",
    "Barges carried grain, salt and timber down the river for centuries.",
    "The Rhine begins in the Swiss Alps and ends in the Netherlands.",
    "Its valley is known for castles, vineyards and the rock of the Lorelei.",
    "The Danube passes four capitals on its way to the Black Sea.",
    "In spring the melting snow raises all of them, and the towns watch their dykes.",
)


def chapters(count: int) -> str:
    """About 105 words a chapter, in paragraphs."""
    return "\n\n".join(
        f"# Chapter {number}\n\nIn the year {1500 + number} a traveller wrote this down. {' '.join(FACTS)}"
        for number in range(count)
    )


def test_a_text_of_several_contexts_is_summarised_and_its_progress_is_seen(tasks, until) -> None:
    text = chapters(16)  # about 2,500 tokens: more than the context
    result = tasks.send("text.summarize", text=text, max_length=20)
    seen: list[dict[str, Any]] = []

    def watch() -> bool:
        told = result.backend.get_task_meta(result.id)  # both at once: it may end in between
        if told["status"] == "PROGRESS" and told["result"] not in seen:
            seen.append(told["result"])
        return result.ready()

    until(watch, "the summary", WAIT_S)
    answer = result.get(timeout=10)
    assert answer["summary"].strip()
    assert answer["original_length"] == len(text.split())
    assert answer["summary_length"] == len(answer["summary"].split()) <= 20
    assert answer["compression_ratio"] < 0.1
    assert answer["meta"]["attempts"] >= 3
    assert seen
    assert all(set(step) == {"done", "total", "unit"} for step in seen)
    assert all(0 <= step["done"] <= step["total"] for step in seen)
    assert [step["done"] for step in seen] == sorted(step["done"] for step in seen)
    assert seen[-1]["total"] >= 3


def test_keywords_of_a_text_are_a_list_without_doubles(tasks) -> None:
    answer = tasks.run("text.keywords", text=chapters(1), max_keywords=5, temperature=0)
    assert 1 <= len(answer["keywords"]) <= 5
    assert answer["count"] == len(answer["keywords"])
    assert len({keyword.casefold() for keyword in answer["keywords"]}) == len(answer["keywords"])
    assert answer["meta"]["usage"]["completion_tokens"] > 0


def test_a_request_is_normalised_to_its_schema(tasks) -> None:
    schema = {
        "type": "object",
        "properties": {
            "action": {"enum": ["open", "close"]},
            "place": {"type": "string", "minLength": 1, "maxLength": 20},
        },
        "required": ["action", "place"],
        "additionalProperties": False,
    }
    answer = tasks.run(
        "text.normalize",
        request="could you please open the kitchen window",
        schema=schema,
        temperature=0,
        examples=[{"request": "shut the door!", "normalized": {"action": "close", "place": "door"}}],
    )
    assert answer["normalized"]["action"] in {"open", "close"}
    assert set(answer["normalized"]) == {"action", "place"}
    assert 0 <= answer["confidence"] <= 1


def test_data_is_extracted_as_its_schema_says(tasks) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 30},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = tasks.run("llm.extract", text="Anna Nowak is 34 years old.", schema=schema, temperature=0)
    assert set(answer["data"]) == {"name", "age"}
    assert isinstance(answer["data"]["age"], int)
    assert 1 <= answer["attempts"] <= 3
