"""The names the outside relies on, pinned; and the documents that list them."""

import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from worker import errors, metrics
from worker.contracts import CONTRACTS
from worker.settings import setting_names
from worker.tasks import CATALOGUE

ROOT = Path(__file__).parents[2]


def test_tasks() -> None:
    assert set(CATALOGUE) == {
        "llm.chat", "llm.embed", "llm.extract", "text.summarize", "text.keywords", "text.normalize",
        "image.analyze", "diagram.describe", "document.ocr", "story.continue",
    }  # fmt: skip


def test_error_types() -> None:
    public = {
        "InvalidTask", "InputTooLarge", "InputUnavailable", "ForbiddenInput", "ContextLengthExceeded",
        "BackendRejected", "BackendUnavailable", "DeadlineExceeded", "OutputInvalid", "OutputRunaway",
        "DeadLettered",
    }  # fmt: skip
    assert public <= {name for name in vars(errors) if issubclass(type(getattr(errors, name)), type)}


def test_metrics() -> None:
    assert metrics.TASKS_ENDED
    ours = {metric.name for metric in REGISTRY.collect() if metric.name.startswith("kc_")}
    assert ours == {
        "kc_tasks_started", "kc_tasks_ended", "kc_tasks_in_flight", "kc_task_duration_seconds",
        "kc_task_queue_seconds", "kc_time_to_first_token_seconds", "kc_tokens", "kc_backend_requests",
        "kc_queue_waiting", "kc_queue_oldest_seconds", "kc_reserved", "kc_running", "kc_parked", "kc_delayed",
        "kc_suspects", "kc_dead", "kc_server_ready", "kc_server_limit", "kc_server_in_flight", "kc_gate_waiting",
        "kc_gateway_requests", "kc_gateway_request_duration_seconds", "kc_gateway_requests_open",
        "kc_batches", "kc_batch_lines_left", "kc_database_missed",
    }  # fmt: skip


CONTRACT_SETTINGS = {
    "REDIS_HOST", "REDIS_PORT", "REDIS_DB", "REDIS_PASSWORD", "REDIS_URL", "LLM_BACKEND", "LLM_SERVER_URL",
    "LLM_API_KEY", "LLM_MODEL", "LLM_TIMEOUT", "LLM_MAX_CONCURRENCY", "WORKER_CONCURRENCY",
    "WORKER_HEALTH_PORT", "GATEWAY_HOST", "GATEWAY_PORT", "GATEWAY_API_KEYS", "HF_TOKEN", "HF_CACHE_DIR",
    "MODELS_DIR",
}  # fmt: skip


def test_settings() -> None:
    assert set(setting_names()) >= CONTRACT_SETTINGS


def test_every_setting_is_documented() -> None:
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE))
    assert documented == set(setting_names())


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_task_is_documented(name: str) -> None:
    assert f"## `{name}`" in (ROOT / "docs/tasks.md").read_text()


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_producers_and_tasks_agree_on_the_arguments() -> None:
    assert {name: CATALOGUE[name].contract for name in CONTRACTS} == CONTRACTS
