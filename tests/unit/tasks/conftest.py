"""A model that says what the test wrote down, and a task's run around it."""

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from worker.backends.base import CallContext, Capabilities, Json, OnChunk, Readiness, Reply
from worker.database.drawings import Drawings
from worker.database.engine import Database
from worker.database.stories import Stories
from worker.documents.pictures import Look
from worker.documents.readers import Readers
from worker.storage.blobs import Blobs
from worker.storage.fetching import Allowed, Fetcher
from worker.storage.inputs import Inputs
from worker.storage.texts import Texts
from worker.tasks import CATALOGUE, Work
from worker.tasks.base import run
from worker.tools import Tools

Script = Callable[[Json], "Answer"]
Answer = str | tuple[str, str] | Exception | Awaitable[str]

CAPABILITIES = Capabilities(
    server="unknown",
    model="scripted",
    models=("scripted",),
    slots=None,
    context_length=2048,
    structured="json_schema",
    embeddings=False,
    tokenizer=True,
)

WORDS = re.compile(r"\s*\S{1,8}|\s+")


def count_tokens(text: str) -> int:
    """A tokenizer of sorts: a token is up to eight characters of a word, with the space before it."""
    return sum(1 for _ in WORDS.finditer(text))


class ScriptedBackend:
    """Answers from a script: texts, (text, finish_reason), errors, or a function of the request."""

    name = "scripted"

    def __init__(self, answers: Iterable[Answer] | Script, capabilities: Capabilities = CAPABILITIES) -> None:
        self._answers = answers if callable(answers) else iter(answers)
        self._capabilities = capabilities
        self.requests: list[Json] = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def chat(self, request: Json, context: CallContext, on_chunk: OnChunk | None = None) -> Reply:
        self.requests.append(request)
        answer = self._answers(request) if callable(self._answers) else next(self._answers)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if isinstance(answer, Awaitable):
                answer = await answer
            else:
                await asyncio.sleep(0)
        finally:
            self.in_flight -= 1
        if isinstance(answer, Exception):
            raise answer
        text, finish_reason = answer if isinstance(answer, tuple) else (answer, "stop")
        message = {"role": "assistant", "content": text}
        body = {
            "object": "chat.completion",
            "model": "scripted",
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
        return Reply(body, "scripted://", ttft_s=0.1, total_s=0.2)

    async def complete(self, request: Json, context: CallContext, on_chunk: OnChunk | None = None) -> Reply:
        return await self.chat(request, context, on_chunk)

    async def embed(self, request: Json, context: CallContext) -> Reply:
        self.requests.append(request)
        return Reply({"object": "list", "data": [], "model": "scripted"}, "scripted://", None, 0.1)

    async def count_tokens(self, texts: Sequence[str], context: CallContext) -> list[int]:
        return [count_tokens(text) for text in texts]

    async def capabilities(self, context: CallContext) -> Capabilities:
        return self._capabilities

    def constrain(self, schema: Json, capabilities: Capabilities) -> Json:
        if capabilities.structured != "json_schema":
            return {}
        return {
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        }

    async def probe(self) -> list[Readiness]:
        return []

    async def aclose(self) -> None:
        pass

    def prompts(self) -> list[str]:
        """The last message of every request."""
        return [request["messages"][-1]["content"] for request in self.requests]


async def nobody(name: str) -> None:
    """No other task does the same."""


class Runner:
    """Runs tasks against a scripted model and notes their progress."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder = folder
        self.drawings, self.stories = Drawings(database), Stories(database)
        self._ids = itertools.count()
        self.progress: list[tuple[int, int, str]] = []
        self.readers = Readers(1, 2, 4 * 2**30)
        self.blobs = Blobs(folder / "blobs")

    async def __call__(
        self, backend: Any, name: str, /, deadline: float | None = None, task_id: str = "", **arguments: Any
    ) -> Json:
        async def progress(done: int, total: int, unit: str) -> None:
            self.progress.append((done, total, unit))

        entry = CATALOGUE[name]
        work = Work(
            backend=backend,
            call=CallContext(task_id=task_id or f"task-{next(self._ids)}", deadline=deadline),
            tools=Tools(
                texts=Texts(Inputs(self.blobs, (self._folder,), Fetcher(Allowed.of(()), 5)), 8 * 1024 * 1024),
                look=Look(),
                readers=self.readers,
                drawings=self.drawings,
                stories=self.stories,
            ),
            progress=progress,
            same=nobody,
        )
        return await run(entry, entry.contract.parse(arguments), work)


@pytest.fixture(scope="session")
def warm_readers() -> Iterator[Readers]:
    """Processes that have loaded their models, for all tests."""
    readers = Readers(1, 2, 4 * 2**30)
    yield readers
    readers.close()


@pytest.fixture
def run_task(tmp_path: Path, warm_readers: Readers) -> Iterator[Runner]:
    with Database(f"sqlite:///{tmp_path}/kc.db") as database:
        runner = Runner(tmp_path, database)
        for mine, warm in zip(runner.readers.pools, warm_readers.pools, strict=True):
            mine._idle = warm._idle  # each test has an event loop of its own
        yield runner


@pytest.fixture
def scripted() -> type[ScriptedBackend]:
    return ScriptedBackend


@pytest.fixture
def capabilities() -> Capabilities:
    return CAPABILITIES
