"""One page that was read, as tasks hand it on."""

from dataclasses import asdict

from worker.documents.layout import Block, blocks_of
from worker.documents.markdown import markdown
from worker.documents.marks import Mark
from worker.documents.ocr import Scan
from worker.documents.pdf import POINTS
from worker.documents.text_layer import TextLayer
from worker.documents.wire import Json


def layer_page(layer: TextLayer) -> Json:
    """A page by its text layer; see `docs/documents.md` for its fields."""
    blocks = blocks_of(layer.marks, layer.rules, exact=True)
    confidence = 1.0 if layer.marks or layer.is_real else 0.0
    return _page("text", "pt", (layer.width, layer.height), layer.marks, blocks, confidence, 0, 1.0)


def scanned_page(scan: Scan, dpi: float | None) -> Json:
    """A page by OCR; in points where it was looked at in so many dots an inch, else in pixels."""
    blocks = blocks_of(scan.marks, scan.rules, exact=False)
    unit, scale = ("px", 1.0) if dpi is None else ("pt", POINTS / dpi)
    size = (scan.width * scale, scan.height * scale)
    return _page("ocr", unit, size, scan.marks, blocks, scan.confidence, scan.turned, scale)


def _page(
    source: str,
    unit: str,
    size: tuple[float, float],
    marks: list[Mark],
    blocks: list[Block],
    confidence: float,
    turned: int,
    scale: float,
) -> Json:
    said = markdown(blocks)
    return {
        "source": source,
        "unit": unit,
        "width": round(size[0], 2),
        "height": round(size[1], 2),
        "turned": turned,
        "confidence": round(confidence, 4),
        "characters": sum(len(word.text) for mark in marks for word in mark.words),
        "markdown": said,
        "blocks": [_shown(block, scale) for block in blocks],
        "lines": [
            {
                "text": mark.text,
                "box": [round(side * scale, 2) for side in mark.at],
                "confidence": round(mark.confidence, 4),
            }
            for mark in marks
        ],
    }


def _shown(block: Block, scale: float) -> Json:
    said = {name: value for name, value in asdict(block).items() if value not in ("", (), 0)}
    return {**said, "box": [round(side * scale, 2) for side in block.box]}
