"""`text.keywords`: what a text of any length is about."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from worker.backends.base import Json
from worker.contracts.text import KeywordsArguments
from worker.errors import InvalidTask, OutputInvalid
from worker.tasks.base import Work, task
from worker.tasks.budget import ASSUMED_CONTEXT, text_budget
from worker.tasks.language import language_of
from worker.tasks.longtext import Steps, at_once, map_calls, split
from worker.tasks.prompts import ask, prompt
from worker.tasks.schemas import Schema
from worker.tasks.structured import Asked, ask_json

_MARK = re.compile(r"</?text\d*>")
_MOST_CHARS = 40  # of one keyword
_TOKENS_PER_KEYWORD = 32


@task("text.keywords", KeywordsArguments)
async def keywords(work: Work, arguments: KeywordsArguments) -> Json:
    """The keywords, the most important first; see `Keywords`."""
    text = await work.read(arguments.text)
    if not text.strip():
        raise InvalidTask("`text` is empty.", "Send the text to find keywords in.")
    capabilities = await work.capabilities()
    context = capabilities.context_length or ASSUMED_CONTEXT
    language = await language_of(arguments.language, text)

    most = max(1, min(arguments.max_keywords, context // 3 // _TOKENS_PER_KEYWORD - 2))
    answer_tokens = (most + 2) * _TOKENS_PER_KEYWORD
    schema = _schema(most)
    instructions = prompt("keywords", language).fill(max_keywords=most)
    sampling = {"temperature": 0.2, "max_tokens": answer_tokens, **arguments.sampling()}

    async def of_piece(piece: str) -> list[str]:
        asked = Asked(ask(instructions, piece), schema, sampling, max_repairs=2, language=language)
        return list((await ask_json(work, asked)).data["keywords"])

    budget = await text_budget(work, instructions, answer_tokens, context)
    pieces = await split(text, budget, work.count_tokens)
    steps = Steps(work)
    if len(pieces) > 1:
        await steps.expect(len(pieces))
    proposed = await map_calls(pieces, of_piece, at_once(capabilities), steps)
    found = rank(zip(pieces, proposed, strict=True))[: arguments.max_keywords]
    if not found:  # blanks and punctuation satisfy the schema
        raise OutputInvalid("The model named no keywords.", "Try again, or use a larger model.")
    return {"keywords": found, "count": len(found)}


def rank(proposals: Iterable[tuple[str, list[str]]]) -> list[str]:
    """Keywords of all pieces, each once whatever its case, the most important first.

    In each piece that proposes it, a keyword earns 1/rank and the logarithm of 1 + how often the piece has it
    (the logarithm keeps one repetitive piece from deciding). One that many pieces propose adds up.

    Args:
        proposals: pieces of the text, each with the keywords proposed for it, the best first.
    """
    scores: defaultdict[str, float] = defaultdict(float)
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for piece, proposed in proposals:
        haystack = piece.casefold()
        clean = [" ".join(keyword.split()).strip(" .,;:!?\"'") for keyword in proposed]
        distinct = dict.fromkeys(keyword.casefold() for keyword in clean if _says_something(keyword))
        for place, key in enumerate(distinct, start=1):
            scores[key] += 1 / place + math.log1p(haystack.count(key))
        for keyword in clean:
            spellings[keyword.casefold()][keyword] += 1
    ranked = sorted(scores, key=lambda key: -scores[key])
    return [spellings[key].most_common(1)[0][0] for key in ranked]


def _says_something(keyword: str) -> bool:
    """Whether it has a letter or a digit and is not the mark that the prompt puts around the text."""
    return any(character.isalnum() for character in keyword) and not _MARK.fullmatch(keyword)


def _schema(most: int) -> Schema:
    keyword = {"type": "string", "minLength": 1, "maxLength": _MOST_CHARS}
    document = {
        "type": "object",
        "properties": {"keywords": {"type": "array", "items": keyword, "minItems": 1, "maxItems": most}},
        "required": ["keywords"],
        "additionalProperties": False,
    }
    return Schema.read(document)
