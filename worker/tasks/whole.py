"""Answers that are of use only whole."""

from worker.backends.base import Json, OnChunk, Reply
from worker.backends.runaway import REPETITION
from worker.errors import OutputRunaway
from worker.tasks.base import Work

#: What gets a model out of its loop when it is asked again; the same question alone often ends in the same.
PENALTY: Json = {"frequency_penalty": 0.5}

_EXCERPT_CHARS = 80


async def ask_whole(work: Work, request: Json, on_chunk: OnChunk | None = None) -> Reply:
    """Ask the model; an answer that ran away is asked for once more, with a penalty on repetition.

    Not where the caller has set that penalty, nor where the loop has been streamed to somebody already.

    Raises:
        OutputRunaway: the answer ran away again.
    """
    reply = await work.chat(request, on_chunk)
    if ran_away(reply) and on_chunk is None and not PENALTY.keys() <= request.keys():
        reply = await work.chat({**request, **PENALTY})
    if ran_away(reply):
        raise runaway(reply)
    return reply


def ran_away(reply: Reply) -> bool:
    """Whether an answer was cut because it repeats itself without end."""
    return reply.finish_reason == REPETITION


def runaway(reply: Reply) -> OutputRunaway:
    """The error for such an answer."""
    said = reply.text or str(reply.body["choices"][0]["message"].get("reasoning_content") or "")
    return OutputRunaway(f"The model repeats itself without end: …{said[-_EXCERPT_CHARS:]!r}.")
