"""How much of a story a model is shown: its end, from a turn that stays the first for many turns.

Servers keep what they have read: a prompt that begins like the last one costs only what is new in it. So the
oldest turns do not go one by one, which would make every prompt begin differently, but many at once, down to
half of the room; then the beginning stays where it is until the room is full again. A story that grows for
ever is read anew once every so many turns, and costs what is new in all others.
"""

from collections.abc import Mapping


def first_shown(turns: Mapping[int, int], kept_from: int, room: int) -> int:
    """The number of the first turn that is shown.

    Args:
        turns: tokens of each earlier turn, by its number; those from `kept_from` on at least.
        kept_from: the first one shown last time.
        room: tokens there are for earlier turns.

    Returns:
        `kept_from` while all from there on fit; else the first of those that take half of the room at most,
        or the last turn where that one alone takes more; one more than it where it does not fit at all.
    """
    shown = {number: tokens for number, tokens in turns.items() if number >= kept_from}
    if sum(shown.values()) <= room:
        return kept_from
    last = max(shown)
    first, taken = last + 1, 0
    for number in sorted(shown, reverse=True):
        taken += shown[number]
        if taken > (room if number == last else room // 2):
            break
        first = number
    return first
