"""`image.analyze`: a poster described, for people and for a catalogue, and tagged."""

from worker.backends.base import Json
from worker.contracts.image import CATEGORIES, MOST_TAGS, AnalyzeArguments
from worker.errors import InvalidTask, OutputInvalid
from worker.tasks.base import Work, task
from worker.tasks.language import language_of
from worker.tasks.prompts import block, prompt
from worker.tasks.schemas import Schema
from worker.tasks.seeing import check_sight, shown
from worker.tasks.structured import Asked, ask_json

#: There has to be a bound: without one a small model goes on for ever inside a string.
_SIMPLE_CHARS, _RESEARCH_CHARS, _TAG_CHARS = 600, 1800, 40
#: Tokens of the longest answer.
_ANSWER_TOKENS = 1536


@task("image.analyze", AnalyzeArguments)
async def analyze(work: Work, arguments: AnalyzeArguments) -> Json:
    """The descriptions and tags; see `Analyzed`."""
    if arguments.language == "auto":
        raise InvalidTask("`language`: a picture has none; name the one to answer in, such as pl or en.")
    language = await language_of(arguments.language, "")
    await check_sight(work)
    picture = await work.picture(arguments.image, "image")
    wanted = prompt("json", language).fill(schema=_SCHEMA.text)
    instructions = f"{prompt('poster', language).fill(most_tags=MOST_TAGS)} {wanted}"
    if known := _known(arguments):
        instructions = f"{instructions}\n\n{block(known)}"
    sampling = {"temperature": 0.2, "max_tokens": _ANSWER_TOKENS, **arguments.sampling()}
    asked = Asked(shown(picture, instructions), _SCHEMA, sampling, arguments.max_repairs, language)
    data = (await ask_json(work, asked)).data
    simple, research = data["simple_description"].strip(), data["research_description"].strip()
    if not (simple and research):  # blanks satisfy the schema
        raise OutputInvalid("The model described nothing.", "Try again, or use a larger model.")
    tags = {category: _distinct(data["tags"][category]) for category in CATEGORIES}
    return {"simple_description": simple, "research_description": research, "tags": tags}


def _known(arguments: AnalyzeArguments) -> str:
    """What is known of it already, a line each."""
    facts = (("title", arguments.title), ("year", arguments.year), ("description", arguments.description))
    return "\n".join(f"{name}: {value}" for name, value in facts if value not in (None, ""))


def _distinct(tags: list[str]) -> list[str]:
    """Tags without blanks, each once whatever its case."""
    found: dict[str, str] = {}
    for tag in tags:
        if clean := " ".join(tag.split()).strip(" .,;:"):
            found.setdefault(clean.casefold(), clean)
    return list(found.values())


def _schema() -> Schema:
    tag = {"type": "string", "minLength": 1, "maxLength": _TAG_CHARS}
    tags = {"type": "array", "items": tag, "maxItems": MOST_TAGS}
    document = {
        "type": "object",
        "properties": {
            "simple_description": {"type": "string", "minLength": 1, "maxLength": _SIMPLE_CHARS},
            "research_description": {"type": "string", "minLength": 1, "maxLength": _RESEARCH_CHARS},
            "tags": {
                "type": "object",
                "properties": dict.fromkeys(CATEGORIES, tags),
                "required": list(CATEGORIES),
                "additionalProperties": False,
            },
        },
        "required": ["simple_description", "research_description", "tags"],
        "additionalProperties": False,
    }
    return Schema.read(document)


_SCHEMA = _schema()
