"""What a user does with plain Celery, or with no Celery at all, works as the documents say."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group

from worker.local.celery_worker import LocalWorker
from worker.local.child import Child, free_port

ROOT = Path(__file__).parents[2]
WAIT_S = 120
HELLO = [{"role": "user", "content": "Say hello."}]
TEXT = (
    "The Vistula is the longest river in Poland. It rises in the Beskids and flows through Kraków and Warsaw "
    "to the Baltic Sea near Gdańsk. Barges carried grain down the river for centuries."
)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 40}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def code_block(document: str, language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)[number]


def is_meta(meta: dict[str, Any]) -> bool:
    assert set(meta) == {"model", "backend", "usage", "timings", "cached", "attempts", "finish_reason"}
    assert set(meta["timings"]) == {"queue_s", "ttft_s", "total_s"}
    assert meta["backend"] == "llamacpp"
    assert meta["usage"]["prompt_tokens"] > 0
    assert meta["attempts"] >= 1
    return True


@pytest.fixture
def ask(shared_worker: LocalWorker, producer: Celery) -> Callable[..., dict[str, Any]]:
    def ask(task: str, **arguments: Any) -> dict[str, Any]:
        result = producer.send_task(task, kwargs=arguments, headers={"sent_at": time.time()})
        answer: dict[str, Any] = result.get(timeout=WAIT_S)
        assert is_meta(answer["meta"])
        assert answer["meta"]["timings"]["queue_s"] >= 0
        return answer

    return ask


def test_the_readmes_producer_prints_an_answer(shared_worker: LocalWorker, redis_url: str) -> None:
    code = code_block("README.md", "python").replace("redis://localhost:6379/0", redis_url)
    assert "import worker" not in code
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=True, cwd="/"
    )
    assert run.stdout.strip()


def test_a_producer_without_celery_is_a_shell_and_redis_cli(
    shared_worker: LocalWorker, redis_url: str
) -> None:
    script = code_block("docs/producers.md", "bash")
    redis_cli = Path(sys.executable).with_name("redis-cli")
    env = {**os.environ, "PATH": f"{redis_cli.parent}:{os.environ['PATH']}"}
    script = script.replace("redis-cli", f"redis-cli -u {redis_url}")
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env=env,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout.splitlines()[-1])
    assert answer["status"] == "SUCCESS"
    assert answer["result"]["choices"][0]["message"]["content"]


def test_llm_chat_answers_with_the_openai_object(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask("llm.chat", messages=HELLO, max_tokens=8, temperature=0)
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"]
    assert answer["meta"]["finish_reason"] in {"stop", "length"}


def test_llm_embed_answers_with_the_openai_object(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask("llm.embed", input=["one", "two"])
    assert answer["object"] == "list"
    assert len(answer["data"]) == 2
    assert len(answer["data"][0]["embedding"]) > 100


def test_llm_extract_answers_with_data_and_attempts(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask("llm.extract", text="Anna is 34.", schema=PERSON, temperature=0)
    assert set(answer) == {"data", "attempts", "meta"}
    assert isinstance(answer["data"]["age"], int)


def test_text_summarize_answers_with_lengths_in_words(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask("text.summarize", text=TEXT, max_length=20)
    assert set(answer) == {"summary", "original_length", "summary_length", "compression_ratio", "meta"}
    assert answer["original_length"] == len(TEXT.split())
    assert 0 < answer["summary_length"] == len(answer["summary"].split()) <= 20
    assert answer["compression_ratio"] == pytest.approx(
        answer["summary_length"] / answer["original_length"], abs=0.01
    )


def test_text_keywords_answers_with_a_list_and_its_count(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask("text.keywords", text=TEXT, max_keywords=4)
    assert set(answer) == {"keywords", "count", "meta"}
    assert answer["count"] == len(answer["keywords"]) <= 4


def test_text_normalize_answers_with_json_and_a_confidence(ask: Callable[..., dict[str, Any]]) -> None:
    example = {"request": "Tom, 8 years", "normalized": {"name": "Tom", "age": 8}}
    answer = ask("text.normalize", request="Anna, 34 years", schema=PERSON, examples=[example])
    assert set(answer) == {"normalized", "confidence", "meta"}
    assert set(answer["normalized"]) == {"name", "age"}
    assert 0 <= answer["confidence"] <= 1


def test_a_chain_a_group_and_a_chord_work(shared_worker: LocalWorker, producer: Celery) -> None:
    summarize = producer.signature(
        "text.summarize", kwargs={"text": TEXT, "max_length": 20, "temperature": 0}
    )
    keywords = producer.signature("text.keywords", kwargs={"max_keywords": 3, "temperature": 0})
    chat = producer.signature("llm.chat", kwargs={"messages": HELLO, "max_tokens": 8})
    fed = chain(summarize, keywords).apply_async().get(timeout=WAIT_S)
    assert fed["count"] >= 1
    answers = group(chat, chat).apply_async().get(timeout=WAIT_S)
    assert len(answers) == 2
    joined = chord([summarize, summarize])(keywords).get(timeout=WAIT_S)
    assert joined["count"] >= 1


@pytest.mark.parametrize("queue", ["interactive", "default", "batch", "celery"])
def test_every_queue_is_served(shared_worker: LocalWorker, producer: Celery, queue: str) -> None:
    sent = producer.send_task("llm.chat", kwargs={"messages": HELLO, "max_tokens": 4}, queue=queue)
    assert sent.get(timeout=WAIT_S)["choices"]


def test_celerys_own_inspection_commands_work(shared_worker: LocalWorker, redis_url: str) -> None:
    env = {**os.environ, "REDIS_URL": redis_url}
    for command in (["inspect", "active"], ["status"]):
        run = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "worker", *command],
            capture_output=True, text=True, timeout=60, cwd=ROOT, env=env, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
        assert "1 node online" in run.stdout


def test_flower_sees_the_worker(shared_worker: LocalWorker, redis_url: str) -> None:
    port = free_port()
    command = [
        sys.executable, "-m", "celery", "-A", "worker", "flower", f"--port={port}", "--address=127.0.0.1",
    ]  # fmt: skip
    env = {**os.environ, "REDIS_URL": redis_url, "FLOWER_UNAUTHENTICATED_API": "true"}
    with Child("flower", command, env=env) as flower:

        def workers() -> dict[str, Any]:
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/api/workers?refresh=1", timeout=10
                ) as answer:
                    found: dict[str, Any] = json.load(answer)
                    return found
            except OSError:
                return {}

        flower.wait_until(lambda: bool(workers()), 60)
        queues = {queue["name"] for queue in next(iter(workers().values()))["active_queues"]}
    assert queues == {"interactive", "default", "celery", "batch"}
