"""What is written as Mermaid is what Mermaid's own parser reads, where there is Node."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.diagrams.strategies import NASTY
from worker.diagrams import formats
from worker.diagrams.process import KINDS, Arrow, Process, Step

PACKAGES = ["mermaid@11.17.2", "jsdom@29.1.1"]
SCRIPT = Path(__file__).with_name("parse.mjs")
TYPES = {"start": "stadium", "task": "square", "decision": "diamond", "end": "stadium"}

pytestmark = pytest.mark.skipif(not shutil.which("npm"), reason="there is no Node on this machine")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mermaid")
    (folder / "package.json").write_text('{"private": true}')
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", *PACKAGES],
        cwd=folder, check=True, capture_output=True, timeout=170,
    )  # fmt: skip
    shutil.copy(SCRIPT, folder)
    return folder


def everything(kind: str) -> Process:
    """A process with every nasty label as action, role and condition."""
    last = len(NASTY)
    return Process.of(
        [
            Step(label, label, kind, (Arrow(min(number + 1, last), label),))
            for number, label in enumerate(NASTY, 1)
        ]
    )


def test_mermaid_reads_what_was_meant(package: Path) -> None:
    meant = [everything(kind) for kind in KINDS]
    ran = subprocess.run(
        ["node", SCRIPT.name], input=json.dumps([formats.write(process, "mermaid") for process in meant]),
        cwd=package, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    for process, found in zip(meant, json.loads(ran.stdout), strict=True):
        numbered = [(f"s{number}", step) for number, step in enumerate(process.steps, 1)]
        assert found["steps"] == {name: [step.action, TYPES[step.kind]] for name, step in numbered}
        assert found["arrows"] == [
            [name, f"s{way.to}", way.condition] for name, step in numbered for way in step.next
        ]
        assert found["roles"] == [
            [role, sorted(name for name, step in numbered if step.role == role)] for role in process.roles
        ]
