"""24 JSON Schemas of growing difficulty: every answer is valid, or `OutputInvalid` with the reason."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.result import AsyncResult
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from tests.behaviour.conftest import Tasks
from tests.conftest import connected_producer
from worker.local.celery_worker import LocalWorker

pytestmark = pytest.mark.timeout(900)

SCHEMAS = {file.stem: file for file in sorted(Path(__file__).parents[1].joinpath("schemas").glob("*.json"))}
TEXT = (
    "Order 17 of Anna Nowak from Gdańsk, 34 years, anna@example.com: two red teapots at 19.50 euro each, "
    "paid on 2024-05-06. She is a regular customer."
)


@pytest.fixture(scope="module")
def sent(shared_worker: LocalWorker, redis_url: str) -> Iterator[dict[str, AsyncResult]]:
    """All of them at once, as the engine has slots."""
    with connected_producer(redis_url) as app:
        tasks = Tasks(app)
        # No seed: a seeded request whose prompt is computed in parts ends vLLM 0.32 on the CPU.
        fixed = {"text": TEXT, "max_repairs": 1, "max_tokens": 128, "options": {"deadline_s": 800}}
        yield {
            name: tasks.send("llm.extract", schema=json.loads(file.read_text()), **fixed)
            for name, file in SCHEMAS.items()
        }


def test_there_are_24() -> None:
    assert len(SCHEMAS) == 24


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_satisfies_its_schema_or_says_why_not(sent: dict[str, AsyncResult], name: str) -> None:
    schema = json.loads(SCHEMAS[name].read_text())
    answer = sent[name].get(timeout=840, propagate=False)
    if sent[name].successful():
        validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        assert best_match(validator.iter_errors(answer["data"])) is None
        assert 1 <= answer["attempts"] <= 2
        print(f"{name}: valid after {answer['attempts']}: {answer['data']}")
    else:
        assert type(answer).__name__ == "OutputInvalid", answer
        assert "does not satisfy the schema after" in str(answer)
        print(f"{name}: {answer}")
