"""Output that runs away: a model that says the same for ever, or nothing but blanks.

Seen while the answer is written, so that it can be cut; that is why an answer that may be long is streamed
even where nobody looks. What a counter changes in every turn ("1. the", "2. the") is not seen as repetition.

The limits let pass what a model is asked for: rules of a table, indentation, a refrain, a matrix of zeros of
25 by 25, a picture in characters. Of 32,000 files of source, text and data in Python's packages, one meets
them. An answer that repeats itself is some 500 tokens into its loop when it is cut.
"""

from worker.backends.base import Json

#: `finish_reason` of an answer that was cut.
REPETITION = "repetition"

#: Longest piece of text that is seen to repeat, characters.
LONGEST_PERIOD = 1000
#: A piece runs away when it has come this often in a row, and all of it together is this long, characters.
LEAST_TIMES, LEAST_CHARS = 10, 2000
#: White space in a row that no answer needs, characters.
LEAST_BLANKS = 400

#: An answer of at most this many tokens costs less than streaming it.
SHORT_ANSWER = 256

#: The text is looked at whenever it has grown by this, characters: at the same places however it is cut up.
_BLOCK = 256
_BLOCKS_LOOKED_AT = -(-LEAST_TIMES * LONGEST_PERIOD // _BLOCK)


def may_run_away(request: Json) -> bool:
    """Whether the answer to a chat request may be so long that it is worth watching."""
    return answer_may_pass(SHORT_ANSWER, request)


def answer_may_pass(tokens: int, request: Json) -> bool:
    """Whether the answer to a chat request may have more tokens than these."""
    most_tokens = request.get("max_tokens") or request.get("max_completion_tokens")
    return not isinstance(most_tokens, int) or most_tokens > tokens


class GrowingText:
    """A text that is collected while it is written, and watched.

    Adding a character costs the same however long the text is: only its last 10,000 are looked at.
    """

    __slots__ = ("_blocks", "_pieces", "_waiting", "ran_away")

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._pieces: list[str] = []
        self._waiting = 0
        #: Whether the text has run away; does not depend on how it was cut into pieces.
        self.ran_away = False

    def add(self, piece: str) -> None:
        """Take the next piece of the text."""
        self._pieces.append(piece)
        self._waiting += len(piece)
        if self._waiting >= _BLOCK:
            self._close_blocks()

    def whole(self) -> str:
        """All of it so far."""
        return "".join(self._blocks) + "".join(self._pieces)

    def _close_blocks(self) -> None:
        text = "".join(self._pieces)
        self._waiting = len(text) % _BLOCK
        end = len(text) - self._waiting
        self._pieces = [text[end:]]
        for start in range(0, end, _BLOCK):
            self._blocks.append(text[start : start + _BLOCK])
            self.ran_away = self.ran_away or runs_away("".join(self._blocks[-_BLOCKS_LOOKED_AT:]))


def runs_away(text: str) -> bool:
    """Whether a text ends in white space, or in repetitions, longer than the limits."""
    return len(text) - len(text.rstrip()) >= LEAST_BLANKS or _repeats_itself(text)


def _repeats_itself(text: str) -> bool:
    if len(text) < LEAST_CHARS:
        return False
    # Where the last 1,000 characters came before, most recently, says the only period that can be: any text
    # with a shorter one would have been met there first.
    end = text[-LONGEST_PERIOD:]
    before = text.rfind(end, -2 * LONGEST_PERIOD, -1)
    if before < 0:
        return False
    period = len(text) - LONGEST_PERIOD - before
    length = max(LEAST_CHARS, LEAST_TIMES * period)
    return length <= len(text) and text[-length:-period] == text[period - length :]
