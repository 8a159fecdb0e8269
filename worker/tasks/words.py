"""Words: counted the same way everywhere, and cut where a sentence or a word ends."""

import re

#: Chinese and Japanese write no spaces: there a character counts as a word.
_SPACELESS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\s{_SPACELESS}]+")

_ENDS_SPACELESS = re.compile(rf"[{_SPACELESS}]$")

_SENTENCE_END = re.compile(r"[.!?…]+[\"'»\u201d\u2019)\]]*(?=\s|$)|[\u3002\uff01\uff1f]+")


def count_words(text: str) -> int:
    """Words separated by space; in Chinese and Japanese, characters."""
    return sum(1 for _ in _WORD.finditer(text))


def cut_words(text: str, most: int) -> str:
    """At most `most` words of a text: whole sentences where that keeps half of them, else whole words."""
    end = 0
    for number, word in enumerate(_WORD.finditer(text)):
        if number == most:
            break
        end = word.end()
    else:
        return text
    head = text[:end]
    sentences = [match.end() for match in _SENTENCE_END.finditer(head)]
    if sentences and sentences[-1] * 2 >= end:
        return head[: sentences[-1]]
    head = head.rstrip(",;:-\u2013\u2014")
    return head if _ENDS_SPACELESS.search(head) else head + "…"  # there it would be one word more


def drop_cut_end(text: str) -> str:
    """A text that was cut off in the middle, without its last, perhaps broken, word."""
    return cut_words(text, max(1, count_words(text) - 1))
