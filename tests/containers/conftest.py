"""What the tests start is stopped."""

from collections.abc import Iterator

import pytest

from tests.containers.processes import Container


@pytest.fixture
def containers() -> Iterator[list[Container]]:
    """Whatever is appended is stopped at the end."""
    started: list[Container] = []
    yield started
    for one in started:
        one.kill()
