"""OpenAI's official Node client, where there is Node."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from worker.local.celery_worker import LocalWorker
from worker.local.gateway import LocalGateway

CLIENT = "openai@7.57.0"
SCRIPT = Path(__file__).with_name("client.mjs")

pytestmark = pytest.mark.skipif(not shutil.which("npm"), reason="there is no Node on this machine")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true}')
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", CLIENT],
        cwd=folder, check=True, capture_output=True, timeout=180,
    )  # fmt: skip
    shutil.copy(SCRIPT, folder)
    return folder


def test_the_node_client_works_unchanged(package: Path, gateway: LocalGateway, at_work: LocalWorker) -> None:
    ran = subprocess.run(
        ["node", SCRIPT.name, gateway.url + "/v1"],
        cwd=package, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["chat"] == found["streamed"] == found["helper"] == "one two three four"
    assert len(found["embeddings"]) == 2
    assert found["embeddings"][0] == found["embeddings"][1] > 0
    assert found["error"]["name"] == "BadRequestError"
    assert found["error"]["status"] == 400
    assert "temperature" in found["error"]["message"]
    assert found["batch"]["counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert found["batch"]["ids"] == ["row-1", "row-2", "row-3"]
    assert found["batch"]["listed"]
    assert found["cancelled"] == "cancelling"
    assert found["missing"] == 404
