"""Labels as diagrams write them: entities, line breaks, a little HTML."""

import html
import re

_BREAKS = re.compile(r"<br\s*/?>|</(?:div|p|li|h[1-6]|tr)\s*>", re.IGNORECASE)
_TAGS = re.compile(r"</?[A-Za-z][^<>]*>")


def plain(text: str) -> str:
    """A label without its HTML."""
    return html.unescape(_TAGS.sub("", _BREAKS.sub("\n", text))).replace("\xa0", " ")
