"""Whatever comes is a process or an error in words."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.diagrams.strategies import NASTY
from worker.diagrams import formats
from worker.errors import InvalidTask

WORDS = {
    "flowchart.mmd": (
        "graph TD\n",
        ["A", "B", "A[x]", "B{y}", "C((z))", 'D["q"]', "-->", "---", "-.->", "==>", "-- t -->", "-->|c|", "&", ";", "\n", " ",
         "subgraph S", "subgraph A[B]", "end", ":::k", "@{ shape: diam }", "<-->", "~~~", "S", "style A fill:#fff"],
    ),
    "sequence.mmd": (
        "sequenceDiagram\n",
        ["A->>B: m", "B-->>A: n", "alt c", "else d", "end", "loop l", "opt o", "par p", "and q", "break b", "rect x",
         "participant A as Z", "note over A: x", "critical c", "option o"],
    ),
    "state.mmd": (
        "stateDiagram-v2\n",
        ["[*] --> A", "A --> B: e", "B --> [*]", "state A {", "state B {", "}", "state C <<choice>>", 'state "t" as A',
         "A: text", "--", "C --> A", "state D <<fork>>", "B", "[*] --> [*]"],
    ),
    "activity.puml": (
        "@startuml\nstart\n",
        [":a;", ":b\nc;", "if (x) then (y)", "elseif (z) then (w)", "else (n)", "endif", "while (q) is (r)", "endwhile (s)",
         "repeat", "repeat while (t) is (u)", "backward:v;", "fork", "fork again", "end fork", "switch (s)", "case (1)",
         "endswitch", "stop", "break", "|L|", "-> w;", "kill", "split", "split again", "end split", "note left", "end note"],
    ),
    "graph.puml": (
        "@startuml\nrectangle a\n",
        ["frame F {", "}", 'rectangle "t" as b', "a --> b : x", "b <-- a", "hexagon h <<decision>>", "h -[#red]down-> a",
         "circle c", "(u) --> [v]", "together {", "end", "a -- a"],
    ),
    "sequence.puml": (
        "@startuml\nA -> B : x\n",
        ["A -> B : m", "B <-- A", "[-> A", "A ->]", "alt c", "else", "end", "group g", "loop", "return x", "participant Z",
         '"q r" -> A', "== d ==", "A -> A ++", "par", "break b", "ref over A : x"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
@given(data=st.data())
def test_lines_in_any_order(name: str, data: st.DataObject) -> None:
    head, words = WORDS[name]
    between = st.just("\n") if name != "flowchart.mmd" else st.sampled_from(["", " ", "\n"])
    lines = data.draw(
        st.lists(st.tuples(st.sampled_from([*words, *NASTY]) | st.sampled_from(words), between), max_size=25)
    )
    text = head + "".join(part for line in lines for part in line)
    with contextlib.suppress(InvalidTask):
        process = formats.read(text.encode(), name)
        assert formats.read(formats.write(process, "json").encode(), "x.json") == process


def element(tag: str, attributes: dict[str, str], children: list[str]) -> str:
    said = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    return f"<{tag} {said}>{''.join(children)}</{tag}>"


ELEMENTS = st.recursive(
    st.just(""),
    lambda inner: st.builds(
        element,
        st.sampled_from(["process", "laneSet", "lane", "flowNodeRef", "task", "startEvent", "exclusiveGateway", "sequenceFlow",
                         "participant", "collaboration", "childLaneSet", "root", "mxCell", "object", "diagram", "mxGraphModel", "a"]),
        st.dictionaries(
            st.sampled_from(["id", "name", "sourceRef", "targetRef", "parent", "source", "target", "edge", "vertex", "value",
                             "style", "processRef", "attachedToRef"]),
            st.sampled_from(["a", "b", "c", "1", "0", "", "swimlane", "rhombus", "ellipse", "edgeLabel"]),
        ),
        st.lists(inner, max_size=4),
    ),
    max_leaves=25,
)  # fmt: skip


@pytest.mark.parametrize("root", ["definitions", "mxfile", "mxGraphModel"])
@given(inner=st.lists(ELEMENTS, max_size=5))
def test_elements_in_any_order(root: str, inner: list[str]) -> None:
    with contextlib.suppress(InvalidTask):
        formats.read(f"<{root}>{''.join(inner)}</{root}>".encode())


@given(
    data=st.binary(max_size=200),
    name=st.sampled_from(["a.mmd", "a.puml", "a.bpmn", "a.drawio", "a.json", "a"]),
)
def test_bytes_of_any_kind(data: bytes, name: str) -> None:
    with contextlib.suppress(InvalidTask):
        formats.read(data, name)


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(0, 4)
    | st.floats()
    | st.sampled_from(["", "1", "a", "task", "end"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["to", "condition", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"action": st.just("a") | ODD},
        optional={
            "number": st.integers(1, 4) | ODD,
            "kind": st.just("task") | ODD,
            "role": ODD,
            "next": st.lists(st.integers(1, 4) | st.fixed_dictionaries({"to": ODD}) | ODD, max_size=3) | ODD,
        },
    ),
    max_size=4,
)


@given(found=st.fixed_dictionaries({"steps": ROWS}) | ROWS | ODD)
def test_json_of_any_kind(found: object) -> None:
    with contextlib.suppress(InvalidTask):
        formats.read(json.dumps(found).encode(), "x.json")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"number": [1]}, "step 2: `number` is neither a number nor a text"),
        ({"next": [[1]]}, r"step 2: `next` leads to '\[1\]', which is no step's number"),
        ({"next": [{"to": {}}]}, "step 2: `next` leads to '{}', which is no step's number"),
        ({"kind": []}, "step 2 needs"),
    ],
)
def test_the_step_that_is_wrong_is_named(row: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidTask, match=said):
        formats.read(json.dumps([{"action": "a"}, {"action": "b", **row}]).encode(), "x.json")


def test_a_number_without_end_is_no_character() -> None:
    cell = f'<mxCell id="2" parent="1" value="a&amp;#{"1" * 5_000};b"/>'
    root = f'<root><mxCell id="0"/><mxCell id="1" parent="0"/>{cell}</root>'
    (step,) = formats.read(f"<mxGraphModel>{root}</mxGraphModel>".encode()).steps
    assert step.action == "a\ufffdb"
