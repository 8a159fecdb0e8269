"""Steps from the picture of a diagram: what the model is asked, and what is made of its answer."""

import hashlib
from dataclasses import dataclass
from typing import Any

from worker.backends.base import Json
from worker.contracts.diagram import DiagramArguments
from worker.diagrams.process import KINDS, Arrow, Process, Step
from worker.documents.pictures import Picture
from worker.errors import OutputInvalid
from worker.tasks.base import Work
from worker.tasks.language import FALLBACK, language_of
from worker.tasks.prompts import block, prompt
from worker.tasks.schemas import Schema
from worker.tasks.seeing import shown
from worker.tasks.structured import Asked, ask_json

#: There has to be a bound: without one a small model goes on for ever.
_MOST_STEPS, _MOST_WAYS, _ACTION_CHARS, _ROLE_CHARS, _CONDITION_CHARS = 200, 12, 300, 100, 120
#: Tokens of the longest answer.
_ANSWER_TOKENS = 6144
#: How the answer is wanted where the prompt itself does not say.
_IN = {"auto": "Write in the language the diagram is written in.", FALLBACK: "Write in English."}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about every picture in one language.

    Attributes:
        text: the instructions.
        language: ISO 639 code they are in.
        version: changes with them, and with the shape of the answer.
    """

    text: str
    language: str
    version: str


async def question(language: str) -> Question:
    """The question whose answer is in a language; "auto": in that of the diagram.

    Raises:
        InvalidTask: the language is not one we know.
    """
    spoken = FALLBACK if language == "auto" else await language_of(language, "")
    parts = [
        prompt("diagram", spoken).text,
        _IN.get(language, ""),
        prompt("json", spoken).fill(schema=_SCHEMA.text),
    ]
    text = "\n".join(filter(None, parts))
    return Question(text, spoken, hashlib.sha256(text.encode()).hexdigest()[:12])


async def steps_in(
    work: Work, picture: Picture, words: str, asked: Question, arguments: DiagramArguments
) -> Process:
    """The process a picture shows.

    Args:
        work: of the task.
        picture: as the model is shown it.
        words: that are known to be in it; "" where none are.
        asked: the question.
        arguments: of the task: sampling, repairs.

    Raises:
        OutputInvalid, OutputRunaway, ContextLengthExceeded: as `ask_json` says; it shows no process.
    """
    hint = f"\n\nThese words are in the picture:\n{block(words)}" if words else ""
    sampling = {"temperature": 0.0, "max_tokens": _ANSWER_TOKENS, **arguments.sampling()}
    messages = shown(picture, asked.text + hint)
    answer = await ask_json(work, Asked(messages, _SCHEMA, sampling, arguments.max_repairs, asked.language))
    rows = [row for row in answer.data["steps"] if row["action"].strip()]
    if not rows:
        raise OutputInvalid(
            "The model sees no process in the picture.", "Send a sharper one, or use a larger model."
        )
    return Process.of(_steps(rows))


def _steps(rows: list[Json]) -> list[Step]:
    """Arrows to steps that there are not are left out; without any, the steps follow each other."""
    places: dict[Any, int] = {}
    for place, row in enumerate(rows, 1):
        places.setdefault(row["number"], place)
    ways = [
        tuple(Arrow(places[way["to"]], way["condition"]) for way in row["next"] if way["to"] in places)
        for row in rows
    ]
    if not any(ways):
        ways = [(Arrow(place),) if place <= len(rows) else () for place in range(2, len(rows) + 2)]
    return [Step(row["action"], row["role"], row["kind"], way) for row, way in zip(rows, ways, strict=True)]


def _schema() -> Schema:
    way = _object(to={"type": "integer"}, condition={"type": "string", "maxLength": _CONDITION_CHARS})
    step = _object(
        number={"type": "integer"},
        action={"type": "string", "minLength": 1, "maxLength": _ACTION_CHARS},
        role={"type": "string", "maxLength": _ROLE_CHARS},
        kind={"type": "string", "enum": list(KINDS)},
        next={"type": "array", "items": way, "maxItems": _MOST_WAYS},
    )
    return Schema.read(_object(steps={"type": "array", "items": step, "maxItems": _MOST_STEPS}))


def _object(**properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_SCHEMA = _schema()
