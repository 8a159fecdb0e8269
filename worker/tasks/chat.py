"""`llm.chat`: the model's answer as the model gave it."""

from worker.backends.base import Json
from worker.contracts.llm import ChatArguments
from worker.tasks.base import Work, task


@task("llm.chat", ChatArguments)
async def chat(work: Work, arguments: ChatArguments) -> Json:
    """The OpenAI `chat.completion` object."""
    reply = await work.chat(arguments.request(), work.on_chunk)
    return reply.body
