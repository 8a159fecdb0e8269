"""Trimming keeps the prompt's beginning as it is until the story no longer fits, and never goes over."""

from collections.abc import Mapping
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.database.stories import Said
from worker.tasks.telling import as_chat, as_text
from worker.tasks.window import first_shown

TOKENS = st.integers(1, 400)


def shown(turns: Mapping[int, int], first: int) -> int:
    return sum(tokens for number, tokens in turns.items() if number >= first)


@given(st.lists(TOKENS, min_size=1, max_size=60), st.integers(0, 2000))
def test_what_is_shown_always_fits(tokens: list[int], room: int) -> None:
    kept_from, turns = 1, dict[int, int]()
    for number, size in enumerate(tokens, 1):
        turns[number] = size
        first = first_shown(turns, kept_from, room)
        assert shown(turns, first) <= room
        assert first >= kept_from
        if first > kept_from:  # a cut: there was no way around it, and it makes room for more
            assert shown(turns, kept_from) > room
            assert shown(turns, first) <= room // 2 or first == number
        if turns[number] <= room:
            assert first <= number  # the last turn is not forgotten while it fits
        kept_from = first


@given(st.integers(1, 50), st.integers(200, 5000))
def test_a_cut_comes_once_in_many_turns(size: int, room: int) -> None:
    kept_from, cuts, turns = 1, 0, dict[int, int]()
    for number in range(1, 201):
        turns[number] = size
        first = first_shown(turns, kept_from, room)
        cuts += first != kept_from
        kept_from = first
    # Half of the room, rounded to whole turns, is filled before the next one.
    assert cuts <= 200 / max(1, room // 2 // size) + 1


ROLES = st.sampled_from(["user", "assistant"])
SPEECH = st.lists(st.tuples(ROLES, st.text(max_size=20)).map(lambda pair: Said(*pair)), max_size=12)


@given(st.text(max_size=10), SPEECH, st.text(min_size=1), st.text(), st.text(min_size=1))
def test_a_conversation_begins_as_the_one_before_it(
    system: str, earlier: list[Said], prompt: str, answer: str, next_prompt: str
) -> None:
    now = [*earlier, Said("user", prompt)]
    then = [*now, Said("assistant", answer), Said("user", next_prompt)]
    before = as_chat(system, now)
    after = as_chat(system, then)
    assert after[: len(before)] == before
    assert after[len(before) :] == [
        {"role": "assistant", "content": answer},
        {"role": "user", "content": next_prompt},
    ]


@given(st.text(max_size=10), SPEECH.filter(bool))
def test_user_and_assistant_speak_in_turn_and_the_user_first(system: str, said: list[Said]) -> None:
    messages = as_chat(system, said)
    roles = [message["role"] for message in messages if message["role"] != "system"]
    assert roles[0] == "user"
    assert all(one != other for one, other in pairwise(roles))
    whole = "\n\n".join(message["content"] for message in messages)
    assert all(one.content in whole for one in said)


@given(st.text(max_size=10), SPEECH, st.text(min_size=1), st.text(), st.text(min_size=1))
def test_running_text_goes_on_where_it_ended(
    system: str, earlier: list[Said], prompt: str, answer: str, next_prompt: str
) -> None:
    now = [*earlier, Said("user", prompt)]
    before = as_text(system, now)
    written = f" {answer}"  # as base models write: with the space before the word
    assert before.endswith(prompt)
    after = as_text(system, [*now, Said("assistant", written), Said("user", next_prompt)])
    assert after == f"{before}{written}\n\n{next_prompt}"
