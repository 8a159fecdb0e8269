"""What is cut as a runaway answer, and what never is."""

import base64
import json
import random
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.backends import runaway
from worker.backends.runaway import LEAST_BLANKS, LEAST_CHARS, LEAST_TIMES, LONGEST_PERIOD, GrowingText

#: The text is looked at every so many characters: a loop is seen at most this much later.
STEP = runaway._BLOCK


def write(text: str, cuts: list[int] | None = None) -> GrowingText:
    """The text, added in pieces cut at these places."""
    grown = GrowingText()
    for start, end in pairwise([0, *sorted(cut % (len(text) + 1) for cut in cuts or []), len(text)]):
        grown.add(text[start:end])
    return grown


def repeated(text: str, length: int) -> str:
    return (text * (length // len(text) + 1))[:length]


def noise(seed: int, words: int) -> str:
    """Something like language."""
    chance = random.Random(seed)
    vocabulary = ["".join(chance.choices("abcdefghij", k=chance.randint(2, 8))) for _ in range(400)]
    return " ".join(chance.choice(vocabulary) for _ in range(words))


@given(
    before=st.text(max_size=600),
    piece=st.text(min_size=1, max_size=LONGEST_PERIOD),
    cuts=st.lists(st.integers(0, 20_000), max_size=30),
)
@example(before="", piece="0", cuts=[])
@example(before="{", piece="\n\n \t", cuts=[])
@example(before="", piece="ab" * 499 + "cc", cuts=[1])
def test_whatever_is_repeated_long_enough_runs_away(before: str, piece: str, cuts: list[int]) -> None:
    length = max(LEAST_CHARS, LEAST_TIMES * len(piece)) + STEP
    assert write(before + repeated(piece, length), cuts).ran_away


@given(
    parts=st.lists(
        st.tuples(st.text(min_size=1, max_size=40), st.integers(1, 3000)) | st.integers(0, 9), max_size=6
    ),
    cuts=st.lists(st.integers(0, 20_000), max_size=50),
)
def test_how_a_text_is_cut_into_pieces_changes_nothing(
    parts: list[tuple[str, int] | int], cuts: list[int]
) -> None:
    text = "".join(noise(part, 50) if isinstance(part, int) else repeated(*part) for part in parts)
    cut, whole = write(text, cuts), write(text)
    assert cut.ran_away == whole.ran_away
    assert cut.whole() == whole.whole() == text


@given(st.integers(), st.integers(0, 3000))
def test_text_that_goes_on_saying_new_things_never_runs_away(seed: int, words: int) -> None:
    assert not write(noise(seed, words)).ran_away


@given(st.text(min_size=1, max_size=300).filter(str.strip), st.integers(), st.integers())
def test_what_comes_back_a_few_times_does_not_run_away(piece: str, first: int, last: int) -> None:
    length = min(LEAST_TIMES - 1, LEAST_CHARS // len(piece) // 2) * len(piece)
    assert not write(f"{noise(first, 300)}{repeated(piece, length)}{noise(last, 300)}").ran_away


TABLE = "| № | action | role |\n" + "|---|" * 40 + "\n"
ROWS = "".join(f"| {number} | does a thing | clerk |\n" for number in range(200))
LEGITIMATE = {
    "a table": TABLE + ROWS,
    "an empty form": TABLE + "|  |  |  |  |  |\n" * 100,
    "rules of signs": ("=" * 300 + "\n" + noise(1, 30) + "\n" + "-" * 1000 + "\n") * 3,
    "deep indentation": "".join(" " * 4 * (n % 60) + f"if value[{n}]:\n" for n in range(300)),
    "a numbered list": "".join(f"{number}. The same words again and again.\n" for number in range(300)),
    "a matrix of zeros": json.dumps([[0] * 24] * 24),
    "a matrix of zeros on many lines": json.dumps([[0] * 10] * 10, indent=2),
    "records that differ in one field": json.dumps([{"id": n, "ok": True, "tags": []} for n in range(300)]),
    "binary data": base64.b64encode(random.Random(1).randbytes(6000)).decode(),
    "binary data with a hole": base64.b64encode(bytes(1200)).decode(),
    "a refrain": "".join(
        f"{noise(n, 20)}\n" + "Na na na nananana, nananana, hey Jude\n" * 16 for n in range(4)
    ),
    "a picture in characters": "\n".join(" " * (40 - n) + "*" * (2 * n + 1) for n in range(40)) * 3,
    "a column of the same word": "yes\n" * 400,
    "wide gaps": f"a{' ' * 390}b\n" * 4,
}


@pytest.mark.parametrize("text", LEGITIMATE.values(), ids=LEGITIMATE.keys())
def test_what_a_model_may_be_asked_for_does_not_run_away(text: str) -> None:
    assert not write(text).ran_away


@pytest.mark.parametrize(
    "loop",
    [
        "word ",
        "0, ",
        "\\n",
        "-",
        "| | | | |\n",
        "I'm here to help you find the right person to help you. ",
        noise(1, 150)[: LONGEST_PERIOD - 1] + "\n",
        "👩‍👩‍👧‍👦",
    ],
)
def test_loops_of_real_models_run_away_after_an_answers_beginning(loop: str) -> None:
    assert write(noise(2, 400) + repeated(loop, max(LEAST_CHARS, 10 * len(loop)) + STEP)).ran_away


@pytest.mark.parametrize("blank", [" ", "\n", "\t", " \n", "\n\n\t \u00a0"])
def test_white_space_runs_away_sooner(blank: str) -> None:
    assert not write('{"a":' + repeated(blank, LEAST_BLANKS - 1) + "1" * 300).ran_away
    assert write('{"a":' + repeated(blank, LEAST_BLANKS + STEP)).ran_away


def test_a_text_that_ran_away_stays_so() -> None:
    grown = write("word " * 1000)
    grown.add(noise(1, 500))
    assert grown.ran_away


@pytest.mark.parametrize(
    ("request_fields", "watched"),
    [
        ({}, True),
        ({"max_tokens": None}, True),
        ({"max_tokens": runaway.SHORT_ANSWER + 1}, True),
        ({"max_tokens": runaway.SHORT_ANSWER}, False),
        ({"max_completion_tokens": 5}, False),
        ({"max_completion_tokens": 5000}, True),
    ],
)
def test_only_answers_that_may_be_long_are_watched(request_fields, watched) -> None:
    assert runaway.may_run_away({"messages": [], **request_fields}) is watched
