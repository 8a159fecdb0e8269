import base64
import random
import string

import pytest

from worker.backends.tokens import estimate

ENGLISH = "The quick brown fox jumps over the lazy dog, while everyone else is watching. " * 20


@pytest.mark.parametrize(
    "text", ["", "a", "日本語", "привет, мир", "🦙" * 10, "0123456789" * 5, "\n\n\t \x00"]
)
def test_no_more_than_a_token_a_byte_and_the_beginning(text: str) -> None:
    assert estimate(text) <= len(text.encode()) + 1


def test_english_is_estimated_between_real_and_thrice_real() -> None:
    words = len(ENGLISH.split())  # a common word is one token
    assert words * 1.2 < estimate(ENGLISH) < words * 3.5


def test_keys_and_hashes_count_their_bytes() -> None:
    noise = base64.b64encode(random.Random(1).randbytes(300)).decode()
    assert estimate(noise) > len(noise) * 0.5


def test_longer_text_never_counts_less() -> None:
    chance = random.Random(2)
    text, last = "", 0
    for _ in range(300):
        text += chance.choice(string.printable + "äж日")
        assert estimate(text) >= last - 20  # a word that turns out to be a key may count differently
        last = estimate(text)
