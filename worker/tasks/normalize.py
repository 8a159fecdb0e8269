"""`text.normalize`: a free request as clean JSON, and how sure the model is of it."""

import json
import math
from statistics import fmean

from worker.backends.base import Json
from worker.contracts.text import NormalizeArguments
from worker.errors import InvalidTask
from worker.tasks.base import Work, task
from worker.tasks.language import language_of
from worker.tasks.prompts import block, prompt
from worker.tasks.schemas import Schema
from worker.tasks.structured import Answer, Asked, ask_json

#: Servers that tell the probability of each token. llama-cpp-python needs `logits_all` for it, which makes
#: every request slow, and refuses without.
_TELL_PROBABILITIES = frozenset({"llama.cpp", "vllm"})

_UNKNOWN_CONFIDENCE = 0.5


@task("text.normalize", NormalizeArguments)
async def normalize(work: Work, arguments: NormalizeArguments) -> Json:
    """The request as data, and the confidence; see `Normalized`."""
    if not arguments.request.strip():
        raise InvalidTask("`request` is empty.", "Send what somebody wrote.")
    schema = Schema.read(arguments.json_schema)
    language = await language_of(arguments.language, arguments.request)
    sampling = {"temperature": 0.1, **arguments.sampling()}
    if (await work.capabilities()).server in _TELL_PROBABILITIES:
        sampling |= {"logprobs": True, "top_logprobs": 1}
    messages = _messages(arguments, schema, language)
    answer = await ask_json(work, Asked(messages, schema, sampling, arguments.max_repairs, language))
    return {"normalized": answer.data, "confidence": confidence(answer)}


def _messages(arguments: NormalizeArguments, schema: Schema, language: str) -> list[Json]:
    """The instructions, the examples as answered questions, and the request."""
    wanted = prompt("json", language).fill(schema=schema.text)
    instructions = f"{prompt('normalize', language).fill()} {wanted}"
    messages: list[Json] = []
    for number, example in enumerate(arguments.examples):
        problem = schema.problem(example.normalized)
        if problem:
            raise InvalidTask(f"`examples.{number}.normalized` does not satisfy `schema`: {problem}.")
        messages.append({"role": "user", "content": block(example.request)})
        messages.append({"role": "assistant", "content": json.dumps(example.normalized, ensure_ascii=False)})
    messages.append({"role": "user", "content": block(arguments.request)})
    messages[0]["content"] = f"{instructions}\n\n{messages[0]['content']}"
    return messages


def confidence(answer: Answer) -> float:
    """How sure the model is of its answer, 0 to 1.

    The mean probability the model itself gave the tokens of its answer, before the schema constrained them.
    Only tokens with a letter or a digit count: braces and quotes are forced by the schema. Where the server
    tells no probabilities it is 0.5: the answer is valid and nothing more is known. An answer that needed
    repairs is trusted less: the value is divided by the number of attempts.
    """
    tokens = (answer.reply.body["choices"][0].get("logprobs") or {}).get("content") or []
    probabilities = [
        min(1.0, math.exp(token["logprob"]))
        for token in tokens
        if any(character.isalnum() for character in token["token"])
    ]
    sure = fmean(probabilities) if probabilities else _UNKNOWN_CONFIDENCE
    return round(sure / answer.attempts, 4)
