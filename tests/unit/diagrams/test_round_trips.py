"""What is written is read as what it was."""

import pytest
from hypothesis import example, given

from tests.unit.diagrams.strategies import NASTY, processes
from worker.contracts.diagram import DiagramFormat
from worker.diagrams import formats
from worker.diagrams.process import Arrow, Process, Step

ALL_AT_ONCE = Process.of(
    [
        Step(label, label, next=(Arrow(1, label), Arrow(number, label)))
        for number, label in enumerate(NASTY, 1)
    ]
)


@pytest.mark.parametrize("form", formats.FORMATS)
@given(process=processes())
@example(process=ALL_AT_ONCE)
def test_steps_are_the_same_after_writing_and_reading(form: DiagramFormat, process: Process) -> None:
    written = formats.write(process, form)
    assert formats.source_of(written.encode()) in {form, None if form == "json" else form}
    assert formats.read(written.encode(), f"x.{form}") == process
