"""Sizes and counts in words."""

import pytest

from worker.models.words import count_text, size_text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (98_362_432, "93.8 MiB"), (5 * 1024**4, "5.0 TiB")]
)
def test_a_size_is_shown_in_the_unit_that_fits(size: int, text: str):
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7"), (134_515_008, "135 M"), (7_240_000_000, "7.24 B"), (10**12, "1 T")]
)
def test_a_number_of_weights_is_shown_as_people_say_it(count: int, text: str):
    assert count_text(count) == text
