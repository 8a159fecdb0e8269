"""What is written as BPMN is valid by OMG's schema; it comes from a package that contains it."""

import subprocess
import sys
from pathlib import Path

import pytest
import xmlschema
from hypothesis import given, settings

from tests.unit.diagrams.strategies import processes
from worker.diagrams import formats
from worker.diagrams.process import Process

PACKAGE = "spiffworkflow==3.2.0"


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> xmlschema.XMLSchema:
    folder = tmp_path_factory.mktemp("bpmn")
    subprocess.run(
        [Path(sys.executable).with_name("uv"), "pip", "install", "-q", "--no-deps", "--target", folder, PACKAGE],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return xmlschema.XMLSchema(folder / "SpiffWorkflow/bpmn/parser/schema/BPMN20.xsd")


def test_bpmn_is_valid_by_the_standards_schema(schema: xmlschema.XMLSchema) -> None:
    @settings(max_examples=50)
    @given(process=processes())
    def valid(process: Process) -> None:
        schema.validate(formats.write(process, "bpmn"))

    valid()


def test_the_schema_refuses_what_is_not_bpmn(schema: xmlschema.XMLSchema) -> None:
    written = formats.write(Process.of([*formats.read(b'[{"action": "a"}]', "x.json").steps]), "bpmn")
    assert not schema.is_valid(written.replace("sequenceFlow", "sequence").replace("<task", "<tusk"))
