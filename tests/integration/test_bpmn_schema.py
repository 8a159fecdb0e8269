"""What is written as BPMN is valid by OMG's schema; it comes from a package that contains it."""

from importlib.metadata import distribution

import pytest
import xmlschema
from hypothesis import given, settings

from tests.unit.diagrams.strategies import processes
from worker.diagrams import formats
from worker.diagrams.process import Process

SCHEMA = "SpiffWorkflow/bpmn/parser/schema/BPMN20.xsd"


@pytest.fixture(scope="module")
def schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(str(distribution("spiffworkflow").locate_file(SCHEMA)))


def test_bpmn_is_valid_by_the_standards_schema(schema: xmlschema.XMLSchema) -> None:
    @settings(max_examples=50)
    @given(process=processes())
    def valid(process: Process) -> None:
        schema.validate(formats.write(process, "bpmn"))

    valid()


def test_the_schema_refuses_what_is_not_bpmn(schema: xmlschema.XMLSchema) -> None:
    written = formats.write(Process.of([*formats.read(b'[{"action": "a"}]', "x.json").steps]), "bpmn")
    assert not schema.is_valid(written.replace("sequenceFlow", "sequence").replace("<task", "<tusk"))
