"""Results of documents as files."""

import json
from pathlib import Path

import pytest

from worker.delivery.truth import WorkerTruth
from worker.gateway.desk import Reading
from worker.gateway.documents import _leave
from worker.gateway.operating import _ocr
from worker.storage.blobs import Blobs
from worker.storage.papers import stem_of, write


def truth_of(ocr: dict[str, bool]) -> WorkerTruth:
    return WorkerTruth("w", "h", 1, [], 0, 1, None, None, None, tasks=("document.ocr",), ocr=ocr)


@pytest.mark.parametrize("char", ["a", "ż", "漢", "𝔄"])
def test_names_of_any_letters_fit_a_file_system(tmp_path: Path, char: str) -> None:
    stem = stem_of(char * 300 + ".pdf")
    assert set(stem) == {char}
    assert 176 < len(stem.encode()) <= 180
    write(tmp_path, stem, (b"m", b"{}"))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_model_that_is_missing_is_said() -> None:
    worker = truth_of({"a.onnx": True, "b.onnx": False})
    part = _ocr([worker])
    assert part["status"] == "unavailable"
    assert "No live worker has the OCR models b.onnx" in part["reason"]
    assert _ocr([truth_of({"a.onnx": True, "b.onnx": True})])["status"] == "ok"


def test_a_copy_that_cannot_be_made_is_a_warning(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    said = {"markdown": "# A", "json": {"blob": blobs.put(b"{}")}}
    left, copied, warning = _leave(Reading(blobs, tmp_path / "out", "nope://x", 10**6), "id", "a", said)
    assert Path(left.markdown).read_text() == "# A"
    assert json.loads(Path(left.json).read_text()) == {}
    assert copied is None
    assert warning.startswith("nope://x/id: ")
