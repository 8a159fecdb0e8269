"""Stories as files: whatever chats were saved as, or an error that names the entry."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.database.histories import document, markdown, parse
from worker.database.line import Key
from worker.database.stories import Said, Story
from worker.errors import InvalidTask


def test_what_other_programs_wrote() -> None:
    found = parse(
        json.dumps(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "Human", "content": "Hi", "date": 1700000000000},
                {"role": "AI", "content": [{"type": "text", "text": "Hello"}], "extra": 1},
                {"role": "user", "content": "Again", "date": "2024-01-01T00:00:00+02:00"},
                {"role": "user", "content": "And again"},
            ]
        ).encode()
    )
    assert (found.session, found.name, found.system) == ("", "", "Be brief.")
    assert [[(one.role, one.content) for one in turn] for turn in found.turns] == [
        [("user", "Hi"), ("assistant", "Hello")], [("user", "Again")], [("user", "And again")],
    ]  # fmt: skip
    assert found.turns[0][0].date == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert found.turns[0][1].date is None


def test_a_story_may_begin_with_the_assistant_and_be_empty() -> None:
    greeting = parse(
        b'{"messages": [{"role": "assistant", "content": "Welcome."}, {"role": "user", "content": "Hi"}]}'
    )
    assert [[one.role for one in turn] for turn in greeting.turns] == [["assistant"], ["user"]]
    assert parse(b"[]").turns == []


SAID = st.tuples(
    st.sampled_from(["user", "assistant"]), st.text(st.characters(exclude_characters="\0", codec="utf-8"))
)


@given(st.lists(SAID), st.text(st.characters(exclude_characters="\0", codec="utf-8")))
def test_an_export_is_read_as_it_was(said: list[tuple[str, str]], system: str) -> None:
    date = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    messages = [
        Said(role, content, 3, date, number, number) for number, (role, content) in enumerate(said, 1)
    ]
    story = Story(Key("", "s"), "Name", system)
    found = parse(json.dumps(document(story, messages)).encode())
    assert (found.session, found.name, found.system) == ("s", "Name", system)
    read = [(one.role, one.content, one.date) for turn in found.turns for one in turn]
    assert read == [(role, content, date) for role, content in said]
    assert all(one[1] in markdown(story, messages) for one in said)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("{", "It is not JSON"),
        ("[" * 100_000, "It is not JSON"),
        ('"text"', 'neither a list of messages nor an object with "messages"'),
        ('{"items": []}', 'neither a list of messages nor an object with "messages"'),
        ('[{"role": "user", "content": "x"}, 7]', "Entry 2 is not an object but int"),
        ('[{"role": "tool", "content": "x"}]', "Entry 1: `role` is 'tool', not user, assistant or system"),
        ('[{"content": "x"}]', "Entry 1: `role` is None"),
        ('[{"role": "user"}]', "Entry 1: `content` is NoneType, not text"),
        ('[{"role": "user", "content": "x\\u0000"}]', "Entry 1: `content` contains a NUL byte"),
        ('[{"role": "user", "content": "x\\ud83d"}]', "Entry 1: `content` contains a lone surrogate"),
        ('[{"role": "user", "content": "x", "date": "yesterday"}]', "Entry 1: `date` is 'yesterday'"),
        ('[{"role": "user", "content": "x", "date": 1e30}]', "Entry 1: `date` is 1e+30"),
        (
            '[{"role":"user","content":"x"},{"role":"system","content":"y"}]',
            "Entry 2: `role` is 'system', after",
        ),
    ],
)
def test_a_wrong_entry_is_named(raw: str, says: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        parse(raw.encode())
    assert says in str(caught.value)
