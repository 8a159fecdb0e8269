"""The OpenAPI document, held against a running gateway with real Redis and real llama.cpp behind it."""

import subprocess
import sys
from pathlib import Path

from worker.local.celery_worker import LocalWorker
from worker.local.gateway import LocalGateway
from worker.local.redis import LocalRedis

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance",
)  # fmt: skip


def test_whatever_comes_is_answered_as_documented(
    gateway: LocalGateway, broker: LocalRedis, llama_url: str, tmp_path: Path
) -> None:
    with LocalWorker(broker.url, llama_url, directory=tmp_path / "worker") as worker:
        worker.wait_ready()
        ran = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"), "run", gateway.url + "/openapi.json",
                "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", "15",
                "--request-timeout", "120", "--seed", "1", "--no-color", "--suppress-health-check", "all",
                "--generation-database", "none", "--continue-on-failure",
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
