"""Words are counted and cut the same way everywhere."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.tasks.words import count_words, cut_words, drop_cut_end


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        (" \n", 0),
        ("one", 1),
        ("one two,\nthree", 3),
        ("今天天气好", 5),
        ("GPU 很快 now", 4),
        ("it's 3.5%", 2),
    ],
)
def test_words_are_counted(text, words):
    assert count_words(text) == words


@given(st.text(), st.integers(1, 20))
@example("0\u30400", 2)
def test_a_cut_text_never_has_more_words_than_asked(text, most):
    assert count_words(cut_words(text, most)) <= most


def test_a_text_short_enough_is_left_alone():
    assert cut_words("Two words.", 2) == "Two words."


def test_whole_sentences_are_kept_where_that_keeps_half():
    assert cut_words('He said "Stop." Then he left the room.', 6) == 'He said "Stop."'


def test_else_a_word_is_the_end():
    assert cut_words("Yes. But one, two, three, four, five", 6) == "Yes. But one, two, three, four…"


def test_an_answer_cut_off_loses_its_broken_word():
    assert drop_cut_end("The plant makes bot") == "The plant makes…"
    assert drop_cut_end("It rose. The plant mak") == "It rose. The plant…"
