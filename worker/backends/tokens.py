"""How many tokens a text has at most, where no server says."""

import math
import re

#: A word that can be spoken, lower case or with one capital: what is not, such as a key, splits finer.
#: Possessive throughout: linear on any text.
_WORD = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]?+(?:[b-df-hj-np-tv-xz]{0,3}+[aeiouy]{1,3}+){1,8}+[b-df-hj-np-tv-xz]{0,4}+(?![A-Za-z0-9])"
)


def estimate(text: str) -> int:
    """Tokens of `text`, on the high side.

    Byte-level vocabularies (Llama 3, Qwen, GPT, SmolLM) and those with byte fallback (Llama 2, Gemma) give a
    token at least one byte, so bytes are a bound that holds for everything. Only for plain words of ASCII
    letters, where it is four times too high, a letter counts for half, and the space before a word for
    nothing: it is part of the word's token. (Words of European languages average three letters and more a
    token in vocabularies of 32,000 and up.)
    """
    words = [len(word) for word in _WORD.findall(text)]
    spaces = text.count(" ") - text.count("  ")
    others = len(text.encode("utf-8", "replace")) - sum(words) - min(spaces, len(words))
    return 1 + others + sum(math.ceil(length / 2) for length in words)
