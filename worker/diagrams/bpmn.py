"""BPMN 2.0 (OMG formal/2013-12-09), read: processes, lanes, pools, tasks, events, gateways and flows."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from worker.diagrams.graph import Graph, Node, NotUnderstood
from worker.diagrams.markup import children, local
from worker.diagrams.process import Kind, Process

MODEL = "http://www.omg.org/spec/BPMN/20100524/MODEL"

_GATEWAY, _EVENT = "Gateway", "Event"


def read(root: Element) -> Process:
    """The process of a document; several pools make one process, their names the roles.

    Raises:
        NotUnderstood: it has no process, or one without steps.
        InputTooLarge: there are too many steps.
    """
    graph = Graph()
    pools = {
        pool.get("processRef", ""): pool.get("name", "")
        for collaboration in children(root, "collaboration")
        for pool in children(collaboration, "participant")
    }
    processes = list(children(root, "process"))
    if not processes:
        raise NotUnderstood("it has no `process` element")
    flows: list[Element] = []
    for process in processes:
        flows += _steps(process, pools.get(process.get("id", ""), ""), graph)
    for collaboration in children(root, "collaboration"):
        flows += children(collaboration, "messageFlow")
    for flow in flows:
        source, target = flow.get("sourceRef", ""), flow.get("targetRef", "")
        if source in graph.nodes and target in graph.nodes:  # messages also come from whole pools
            graph.arrow(source, target, flow.get("name") or _condition(flow))
    return graph.process()


def _steps(process: Element, pool: str, graph: Graph) -> list[Element]:
    """Put a process' steps into the graph; its flows."""
    roles = dict(_lane_of(process))
    flows = []
    for element in children(process):
        kind, name = local(element), element.get("id")
        if kind == "sequenceFlow":
            flows.append(element)
        elif name and (node := _node(kind, element)) is not None:
            found = graph.node(name)
            found.text, found.kind, found.role = node.text, node.kind, roles.get(name) or pool
            if kind == "boundaryEvent":
                graph.arrow(element.get("attachedToRef", ""), name)
    graph.arrows = [arrow for arrow in graph.arrows if arrow[0] in graph.nodes]
    return flows


def _node(kind: str, element: Element) -> Node | None:
    """A flow node as a step; None: it is something else."""
    text = element.get("name", "")
    if kind == "startEvent":
        return Node(text, kind="start")
    if kind == "endEvent":
        return Node(text, kind="end")
    if kind.endswith(_GATEWAY):
        decides: Kind = "task" if kind == "parallelGateway" else "decision"
        return Node(text, kind=decides)
    if kind in {"task", "callActivity", "subProcess", "transaction", "adHocSubProcess"} or kind.endswith(
        "Task"
    ):
        return Node(text or "…")
    return Node(text) if kind.endswith(_EVENT) else None


def _lane_of(process: Element) -> Iterator[tuple[str, str]]:
    """Every step's innermost lane."""
    sets = [(lane_set, "", 0) for lane_set in children(process, "laneSet")]
    while sets:
        lane_set, outer, depth = sets.pop()
        for lane in children(lane_set, "lane"):
            name = lane.get("name") or outer
            for reference in children(lane, "flowNodeRef"):
                yield (reference.text or "").strip(), name
            sets += [(inner, name, depth + 1) for inner in children(lane, "childLaneSet")]


def _condition(flow: Element) -> str:
    return next(((found.text or "").strip() for found in children(flow, "conditionExpression")), "")
