"""`llm.extract`: data out of a text or a conversation, as JSON that satisfies a schema."""

from worker.backends.base import Json
from worker.contracts.llm import ExtractArguments, Message, plain
from worker.errors import InvalidTask
from worker.tasks.base import Work, task
from worker.tasks.language import language_of
from worker.tasks.prompts import ask, prompt
from worker.tasks.schemas import Schema
from worker.tasks.structured import Asked, ask_json


@task("llm.extract", ExtractArguments)
async def extract(work: Work, arguments: ExtractArguments) -> Json:
    """The data and how many answers it took; see `Extracted`."""
    schema = Schema.read(arguments.json_schema)
    if arguments.messages is not None:
        language = await language_of("auto", _said(arguments.messages))
        messages = _with_schema(plain(arguments.messages), prompt("json", language).fill(schema=schema.text))
    else:
        text = await work.read(arguments.text or "")
        if not text.strip():
            raise InvalidTask("`text` is empty.", "Send the text to extract from.")
        language = await language_of("auto", text)
        wanted = prompt("json", language).fill(schema=schema.text)
        messages = ask(f"{prompt('extract', language).fill()} {wanted}", text)
    sampling = {"temperature": 0.2, **arguments.sampling()}
    answer = await ask_json(work, Asked(messages, schema, sampling, arguments.max_repairs, language))
    return {"data": answer.data, "attempts": answer.attempts}


def _said(messages: list[Message]) -> str:
    return "\n".join(message.content for message in messages if isinstance(message.content, str))


def _with_schema(messages: list[Json], wanted: str) -> list[Json]:
    """The conversation with the schema at its end; many templates refuse two user messages in a row."""
    last = messages[-1]
    if last["role"] != "user":
        return [*messages, {"role": "user", "content": wanted}]
    content = last["content"]
    if isinstance(content, list):
        return [*messages[:-1], {**last, "content": [*content, {"type": "text", "text": wanted}]}]
    return [*messages[:-1], {**last, "content": f"{content}\n\n{wanted}"}]
