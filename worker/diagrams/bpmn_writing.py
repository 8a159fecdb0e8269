"""BPMN 2.0, written: one process with a lane for every role, and where editors draw it all."""

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from worker.diagrams.bpmn import MODEL
from worker.diagrams.process import Kind, Process

_DI = "http://www.omg.org/spec/BPMN/20100524/DI"
_DC = "http://www.omg.org/spec/DD/20100524/DC"
_WAY = "http://www.omg.org/spec/DD/20100524/DI"
_TARGET = "urn:kc-worker:process"

_ELEMENTS: dict[Kind, str] = {
    "start": "startEvent",
    "task": "task",
    "decision": "exclusiveGateway",
    "end": "endEvent",
}
#: Width and height as editors draw them; the distance from one step to the next; pixels.
_SIZES: dict[Kind, tuple[int, int]] = {
    "start": (36, 36),
    "task": (120, 80),
    "decision": (50, 50),
    "end": (36, 36),
}
_COLUMN, _ROW, _LANE_TITLE, _EDGE = 180, 130, 30, 40


@dataclass(frozen=True, slots=True)
class _Box:
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


def write(process: Process) -> str:
    """A BPMN document; `bpmn.read` makes the same process of it."""
    root = Element(
        "definitions",
        {
            "xmlns": MODEL, "xmlns:bpmndi": _DI, "xmlns:dc": _DC, "xmlns:di": _WAY,
            "id": "definitions_1", "targetNamespace": _TARGET, "exporter": "kc-worker",
        },
    )  # fmt: skip
    described = SubElement(root, "process", {"id": "process_1", "isExecutable": "false"})
    if process.roles:
        lanes = SubElement(described, "laneSet", {"id": "lanes_1"})
        for place, role in enumerate(process.roles, 1):
            lane = SubElement(lanes, "lane", {"id": f"lane_{place}", "name": role})
            for number, step in enumerate(process.steps, 1):
                if step.role == role:
                    SubElement(lane, "flowNodeRef").text = f"step_{number}"
    flows = list(_flows(process))
    for number, step in enumerate(process.steps, 1):
        drawn = SubElement(described, _ELEMENTS[step.kind], {"id": f"step_{number}", "name": step.action})
        for name, source, _, _ in flows:
            if source == number:
                SubElement(drawn, "outgoing").text = name
    _order(described, flows)
    for name, source, target, condition in flows:
        about = {"id": name, "sourceRef": f"step_{source}", "targetRef": f"step_{target}"}
        SubElement(described, "sequenceFlow", about | ({"name": condition} if condition else {}))
    _draw(root, process, flows)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


Flow = tuple[str, int, int, str]


def _flows(process: Process) -> Iterator[Flow]:
    """Id, source, target and condition of every arrow."""
    number = 0
    for source, step in enumerate(process.steps, 1):
        for arrow in step.next:
            number += 1
            yield f"flow_{number}", source, arrow.to, arrow.condition


def _order(described: Element, flows: list[Flow]) -> None:
    """`incoming` comes before `outgoing`, says the schema."""
    by_id = {element.get("id"): element for element in described}
    count: dict[int, int] = {}
    for name, _, target, _ in flows:
        incoming = Element("incoming")
        incoming.text = name
        by_id[f"step_{target}"].insert(count.get(target, 0), incoming)
        count[target] = count.get(target, 0) + 1


def _draw(root: Element, process: Process, flows: list[Flow]) -> None:
    """The interchange part: a shape for every lane and step, a line for every flow."""
    plane = SubElement(
        SubElement(root, "bpmndi:BPMNDiagram", {"id": "diagram_1"}),
        "bpmndi:BPMNPlane",
        {"id": "plane_1", "bpmnElement": "process_1"},
    )
    boxes, lanes = _places(process)
    for place, lane in enumerate(lanes, 1):
        _shape(plane, f"lane_{place}", lane, {"isHorizontal": "true"})
    for number, box in enumerate(boxes, 1):
        marker = {"isMarkerVisible": "true"} if process.steps[number - 1].kind == "decision" else {}
        _shape(plane, f"step_{number}", box, marker)
    for name, source, target, _ in flows:
        line = SubElement(plane, "bpmndi:BPMNEdge", {"id": f"{name}_di", "bpmnElement": name})
        for x, y in _way(boxes[source - 1], boxes[target - 1]):
            SubElement(line, "di:waypoint", {"x": f"{x:g}", "y": f"{y:g}"})


def _shape(plane: Element, name: str, box: _Box, more: dict[str, str]) -> None:
    shape = SubElement(plane, "bpmndi:BPMNShape", {"id": f"{name}_di", "bpmnElement": name, **more})
    place = {"x": box.x, "y": box.y, "width": box.width, "height": box.height}
    SubElement(shape, "dc:Bounds", {key: f"{value:g}" for key, value in place.items()})


def _places(process: Process) -> tuple[list[_Box], list[_Box]]:
    """Boxes of the steps, and of the lanes: a column later than what leads there, a lane a role."""
    columns = [0] * len(process.steps)
    for place, step in enumerate(process.steps):
        for arrow in step.next:
            if arrow.to - 1 > place:
                columns[arrow.to - 1] = max(columns[arrow.to - 1], columns[place] + 1)
    rows: dict[str, dict[int, int]] = {role: {} for role in ("", *process.roles)}
    slots = []
    for step, column in zip(process.steps, columns, strict=True):
        slots.append(rows[step.role].get(column, 0))
        rows[step.role][column] = slots[-1] + 1
    tops, top = {}, 0
    for role, taken in rows.items():
        tops[role] = top
        top += _ROW * max(taken.values(), default=0)
    boxes = []
    for step, column, slot in zip(process.steps, columns, slots, strict=True):
        width, height = _SIZES[step.kind]
        x = _LANE_TITLE + _EDGE + column * _COLUMN + (_COLUMN - _EDGE - width) / 2
        boxes.append(_Box(x, tops[step.role] + slot * _ROW + (_ROW - height) / 2, width, height))
    breadth = _LANE_TITLE + 2 * _EDGE + (max(columns, default=0) + 1) * _COLUMN
    lanes = [_Box(0, tops[role], breadth, _ROW * max(rows[role].values())) for role in process.roles]
    return boxes, lanes


def _way(source: _Box, target: _Box) -> list[tuple[float, float]]:
    """From the right of one step to the left of the next; below both where it leads back."""
    right, left = source.x + source.width, target.x
    if left > right:
        if source.middle == target.middle:
            return [(right, source.middle), (left, target.middle)]
        turn = left - _EDGE / 2
        return [(right, source.middle), (turn, source.middle), (turn, target.middle), (left, target.middle)]
    below = max(source.y + source.height, target.y + target.height) + 15
    middle, goal = source.x + source.width / 2, target.x + target.width / 2
    return [
        (middle, source.y + source.height), (middle, below), (goal, below), (goal, target.y + target.height),
    ]  # fmt: skip
