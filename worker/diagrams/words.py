"""Labels as diagrams write them: entities, line breaks, a little HTML."""

import html
import re

_BREAKS = re.compile(r"<br\s*/?>|</?(?:div|p|li|h[1-6]|tr)\b[^<>]*>", re.IGNORECASE)
#: A character's number that is none, and too long to be looked at.
_BEYOND = re.compile(r"&#[0-9]{9,};?")
_TAGS = re.compile(r"</?[A-Za-z][^<>]*>")


def without(text: str, opening: str, closing: str) -> str:
    """A text without what is between two marks, line breaks excepted; an opening that is not closed stays."""
    kept, at = [], 0
    while (start := text.find(opening, at)) >= 0 and (end := text.find(closing, start + len(opening))) >= 0:
        kept += [text[at:start], "\n" * text.count("\n", start, end)]
        at = end + len(closing)
    return "".join([*kept, text[at:]])


def plain(text: str) -> str:
    """A label without its HTML."""
    bare = _BEYOND.sub("\ufffd", _TAGS.sub("", _BREAKS.sub("\n", text)))
    return html.unescape(bare).replace("\xa0", " ")
