"""Asking a model for JSON that satisfies a schema; shared by extract, keywords and normalize."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.backends.base import Capabilities, Json, Reply
from worker.errors import BackendRejected, OutputInvalid
from worker.tasks.base import Work
from worker.tasks.budget import answer_room
from worker.tasks.prompts import prompt
from worker.tasks.schemas import Schema, parse_json
from worker.tasks.whole import PENALTY, ran_away, runaway

#: Tokens an answer may have where the caller sets no limit. There is always one: a small model can repeat
#: itself inside a string or an array for ever, and a grammar does not stop it.
_DEFAULT_ANSWER_TOKENS = 1024

_EXCERPT_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Answer:
    """A valid answer.

    Attributes:
        data: satisfies the schema.
        attempts: answers the model gave, this one included.
        reply: the one it was read from.
    """

    data: Any
    attempts: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class Asked:
    """What to ask.

    Attributes:
        messages: the conversation; the schema is already in it.
        schema: what the answer must satisfy.
        sampling: sampling fields for the model server.
        max_repairs: times the model is shown what is wrong and asked again.
        language: ISO 639 code the model is spoken to in.
    """

    messages: Sequence[Json]
    schema: Schema
    sampling: Json
    max_repairs: int
    language: str


async def ask_json(work: Work, asked: Asked) -> Answer:
    """Ask with constrained decoding, validate, and repair what is not valid.

    An answer cut off at its token limit is asked for again with twice the limit, unless the caller set it.
    One that ran away is asked for again as at first, with a penalty on repetition.

    Raises:
        OutputInvalid: with the reason of the last attempt.
        OutputRunaway: the last attempt repeats itself without end.
        ContextLengthExceeded: the messages leave no room for an answer.
    """
    capabilities = await work.capabilities()
    constraints = _constraints(work, asked.schema, capabilities)
    limit = asked.sampling.get("max_tokens", _DEFAULT_ANSWER_TOKENS)
    messages, sampling = list(asked.messages), asked.sampling
    reason = ""
    for attempt in range(1, asked.max_repairs + 2):
        work.check_deadline()
        room = await answer_room(work, messages, limit, capabilities.context_length)
        request = {**sampling, "messages": messages, "max_tokens": room}
        reply = await _ask_constrained(work, request, constraints)
        data, reason = _judge(reply, asked.schema, room)
        if not reason:
            return Answer(data, attempt, reply)
        if reply.finish_reason == "length" and "max_tokens" not in asked.sampling:
            limit *= 2
        if ran_away(reply):  # shown its own loop, a model goes on with it
            messages, sampling = list(asked.messages), {**PENALTY, **asked.sampling}
        else:
            messages = [*asked.messages, *_repair(reply.text, reason, asked.language)]
    if ran_away(reply):
        raise runaway(reply)
    attempts = f"{attempt} attempts" if attempt > 1 else "1 attempt"
    raise OutputInvalid(f"The answer does not satisfy the schema after {attempts}: {reason}.")


def _constraints(work: Work, schema: Schema, capabilities: Capabilities) -> list[Json]:
    """Request fields that force the answer into shape, strictest first; the last forces nothing."""
    forms = [work.backend.constrain(schema.document, capabilities)]
    if capabilities.structured != "none" and schema.takes_objects_only:
        forms.append({"response_format": {"type": "json_object"}})
    return [*(form for form in forms if form), {}]


async def _ask_constrained(work: Work, request: Json, constraints: list[Json]) -> Reply:
    """Ask with the first constraint; one the server refuses is dropped for the rest of the task.

    No server's decoder knows all of JSON Schema, and which keywords it refuses cannot be asked beforehand.
    """
    while True:
        try:
            return await work.chat({**request, **constraints[0]})
        except BackendRejected:
            if len(constraints) == 1:
                raise
            del constraints[0]


def _judge(reply: Reply, schema: Schema, room: int) -> tuple[Any, str]:
    """The data of an answer and what is wrong with it, "" where it is valid."""
    cut = "it repeats itself without end" if ran_away(reply) else ""
    if reply.finish_reason == "length":
        cut = f"it was cut off after {room} tokens; raise max_tokens or ask for less"
    try:
        data = parse_json(reply.text)
    except ValueError as error:
        return None, cut or f"it is not JSON: {error}"
    if cut and not isinstance(data, dict | list):  # half a number is a number too
        return None, cut
    return data, schema.problem(data) or ""


def _repair(answer: str, reason: str, language: str) -> list[Json]:
    shown = answer if len(answer) <= _EXCERPT_CHARS else f"{answer[:_EXCERPT_CHARS]}…"
    return [
        {"role": "assistant", "content": shown or "…"},
        {"role": "user", "content": prompt("repair", language).fill(reason=reason)},
    ]
