"""Readers, and documents as they find them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from worker.documents.document import opened
from worker.documents.readers import Readers

Page = dict[str, Any]


@pytest.fixture(scope="session")
def readers() -> Iterator[Readers]:
    """Real processes that read pages, with models that stay loaded."""
    readers = Readers(1, 2, 4 * 2**30)
    yield readers
    readers.close()


@pytest.fixture
def read(readers: Readers) -> Callable[..., Any]:
    """`await read(data, page=1, mode="auto", dpi=200)`: a page as it is read."""

    async def one(data: bytes, page: int = 1, mode: Any = "auto", dpi: int = 200) -> Page:
        async with opened(readers, data, "`document`", 50_000_000) as document:
            return await document.read(page, mode, dpi)

    return one


@pytest.fixture(autouse=True)
def _leave_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What lies on disk while it is read is gone afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.glob("kc-document-*"))
