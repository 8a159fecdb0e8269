"""`llm.embed`: vectors for texts."""

from worker.backends.base import Json
from worker.contracts.llm import EmbedArguments
from worker.tasks.base import Work, task


@task("llm.embed", EmbedArguments)
async def embed(work: Work, arguments: EmbedArguments) -> Json:
    """The OpenAI embeddings object."""
    reply = await work.embed(arguments.model_dump(exclude={"options"}, exclude_none=True))
    return reply.body
