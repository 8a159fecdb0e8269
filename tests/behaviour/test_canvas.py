"""Celery's chains, groups and chords of our tasks."""

import pytest
from celery import chain, chord, group

pytestmark = pytest.mark.timeout(300)

WAIT_S = 240
TEXT = (
    "The Vistula is the longest river in Poland. It rises in the Beskids and flows through Kraków and Warsaw "
    "to the Baltic Sea near Gdańsk. Barges carried grain down the river for centuries."
)


def test_a_chain_hands_the_text_of_one_task_to_the_next(tasks) -> None:
    result = chain(
        tasks.signature("text.summarize", text=TEXT, max_length=30, temperature=0),
        tasks.signature("text.keywords", max_keywords=3, temperature=0),
    ).apply_async()
    answer, summary = result.get(timeout=WAIT_S), result.parent.get(timeout=WAIT_S)["summary"]
    assert summary
    assert 1 <= len(answer["keywords"]) == answer["count"] <= 3
    assert answer["meta"]["attempts"] >= 1


def test_a_group_is_answered_in_order(tasks) -> None:
    limits = (3, 5, 7)
    header = [
        tasks.signature("llm.chat", messages=[{"role": "user", "content": TEXT}], max_tokens=limit)
        for limit in limits
    ]
    answers = group(header).apply_async().get(timeout=WAIT_S)
    assert [answer["usage"]["completion_tokens"] for answer in answers] == list(limits)


def test_a_chord_brings_the_texts_of_a_group_together(tasks) -> None:
    header = [
        tasks.signature("text.summarize", text=TEXT, max_length=20),
        tasks.signature("text.summarize", text=f"{TEXT} {TEXT}", max_length=20),
    ]
    answer = chord(header, tasks.signature("text.summarize", max_length=20)).apply_async().get(timeout=WAIT_S)
    assert answer["summary"]
    assert answer["original_length"] <= 40
