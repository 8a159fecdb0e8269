"""draw.io's files, read: shapes, swimlanes, arrows and what is written on them; plain and compressed."""

import base64
import binascii
import re
import zlib
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes
from xml.etree.ElementTree import Element

from worker.diagrams.graph import Graph, NotUnderstood
from worker.diagrams.markup import children, local, read_xml
from worker.diagrams.process import Kind, Process
from worker.diagrams.words import plain

#: Bytes of one page, unpacked.
MOST_BYTES = 32 * 1024 * 1024
_DECISION = re.compile(r"rhombus|decision|gateway")
_ROUND = re.compile(r"ellipse|terminator|start_[12]|mxgraph\.bpmn\.(?:event|shape)|doubleEllipse|arcSize=50")
_NO_STEP = re.compile(r"(?:^|;)(?:text|edgeLabel|image|line|shape=image)(?:;|=|$)")
#: Levels of groups in each other.
_MOST_DEPTH = 50


@dataclass(frozen=True, slots=True)
class _Cell:
    id: str
    text: str
    style: str
    parent: str
    is_arrow: bool
    source: str
    target: str


def read(root: Element, page: int = 1) -> Process:
    """The process on a page.

    Args:
        root: `mxfile`, or `mxGraphModel`.
        page: from 1.

    Raises:
        NotUnderstood: there is no such page, it cannot be unpacked, or there is nothing on it.
        InputTooLarge: there is too much on it.
    """
    model = root if local(root) == "mxGraphModel" else _page(root, page)
    cells = {cell.id: cell for cell in _cells(model)}
    inner = {cell.parent for cell in cells.values() if not cell.is_arrow and not _is_label(cell, cells)}
    graph = Graph()
    for cell in cells.values():
        if cell.is_arrow or cell.id in inner or "swimlane" in cell.style or _NO_STEP.search(cell.style):
            continue
        if cell.parent in cells:  # the two at the root have none
            node = graph.node(cell.id)
            node.text, node.kind, node.role = cell.text, _kind(cell.style), _role(cell, cells)
    labels: dict[str, str] = {cell.parent: cell.text for cell in cells.values() if _is_label(cell, cells)}
    for cell in cells.values():
        if cell.is_arrow and cell.source in graph.nodes and cell.target in graph.nodes:
            graph.arrow(cell.source, cell.target, cell.text or labels.get(cell.id, ""))
    joined = {name for arrow in graph.arrows for name in arrow[:2]}
    graph.nodes = {name: node for name, node in graph.nodes.items() if node.text.strip() or name in joined}
    return graph.process()


def _page(root: Element, page: int) -> Element:
    pages = list(children(root, "diagram"))
    if not 1 <= page <= len(pages):
        raise NotUnderstood(f"there is no page {page}; it has {len(pages)}")
    chosen = pages[page - 1]
    if (model := next(children(chosen, "mxGraphModel"), None)) is not None:
        return model
    return read_xml(_unpacked((chosen.text or "").strip()))


def _unpacked(text: str) -> bytes:
    """base64 of deflated percent-encoded XML."""
    unpack = zlib.decompressobj(-15)
    try:
        data = unpack.decompress(base64.b64decode(text, validate=True), MOST_BYTES)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise NotUnderstood(f"its page cannot be unpacked ({error})") from None
    if unpack.unconsumed_tail:
        raise NotUnderstood(f"its page has more than {MOST_BYTES:,} bytes, unpacked")
    if not unpack.eof or not data:
        raise NotUnderstood("its page is cut off")
    return unquote_to_bytes(data)


def _cells(model: Element) -> list[_Cell]:
    found = []
    for root in children(model, "root"):
        for element in children(root, "mxCell", "object", "UserObject"):
            cell = element if local(element) == "mxCell" else next(children(element, "mxCell"), None)
            if cell is None:
                continue
            text = element.get("label") if element is not cell else cell.get("value")
            found.append(
                _Cell(
                    id=element.get("id", ""),
                    text=plain(text or "").strip(),
                    style=cell.get("style", ""),
                    parent=cell.get("parent", ""),
                    is_arrow=cell.get("edge") == "1",
                    source=cell.get("source", ""),
                    target=cell.get("target", ""),
                )
            )
    return found


def _is_label(cell: _Cell, cells: dict[str, _Cell]) -> bool:
    return cell.parent in cells and cells[cell.parent].is_arrow


def _kind(style: str) -> Kind | None:
    if _DECISION.search(style):
        return "decision"
    return None if _ROUND.search(style) else "task"


def _role(cell: _Cell, cells: dict[str, _Cell]) -> str:
    """The text of the innermost swimlane or group it is in that has one."""
    for _ in range(_MOST_DEPTH):
        parent = cells.get(cell.parent)
        if parent is None:
            return ""
        if parent.text:
            return parent.text
        cell = parent
    raise NotUnderstood(f"it has more than {_MOST_DEPTH} groups in each other, or they are in a circle")
