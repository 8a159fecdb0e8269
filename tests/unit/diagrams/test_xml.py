"""BPMN and draw.io as editors write them, JSON, and what is meant to do harm."""

import base64
import json
import zlib
from urllib.parse import quote

import pytest

from tests.unit.diagrams.told import told
from worker.diagrams import formats
from worker.errors import InputTooLarge, InvalidTask

BPMN = """<?xml version="1.0" encoding="UTF-8"?>
<!-- exported -->
<bpmn:definitions xmlns:bpmn="http://www.omg.org/spec/BPMN/20100524/MODEL" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <bpmn:collaboration id="col">
    <bpmn:participant id="p1" name="Shop" processRef="shop"/>
    <bpmn:participant id="p2" name="Customer" processRef="customer"/>
    <bpmn:messageFlow id="m1" sourceRef="order" targetRef="begin"/>
  </bpmn:collaboration>
  <bpmn:process id="customer"><bpmn:startEvent id="s"/><bpmn:sendTask id="order" name="Order&#10;goods"/>
    <bpmn:sequenceFlow id="f0" sourceRef="s" targetRef="order"/></bpmn:process>
  <bpmn:process id="shop">
    <bpmn:laneSet><bpmn:lane id="l" name="Office"><bpmn:flowNodeRef>check</bpmn:flowNodeRef>
      <bpmn:childLaneSet><bpmn:lane id="l2" name="Clerk"><bpmn:flowNodeRef>x</bpmn:flowNodeRef></bpmn:lane></bpmn:childLaneSet>
    </bpmn:lane></bpmn:laneSet>
    <bpmn:startEvent id="begin" name="Order arrives"><bpmn:messageEventDefinition/></bpmn:startEvent>
    <bpmn:userTask id="check" name="Check"/>
    <bpmn:boundaryEvent id="late" name="Too late" attachedToRef="check"/>
    <bpmn:exclusiveGateway id="x" name="Good?"/>
    <bpmn:parallelGateway id="split"/><bpmn:task id="a" name="Pack"/><bpmn:task id="b" name="Bill"/><bpmn:parallelGateway id="join"/>
    <bpmn:endEvent id="end"/>
    <bpmn:textAnnotation id="t"><bpmn:text>hm</bpmn:text></bpmn:textAnnotation>
    <bpmn:sequenceFlow id="f1" sourceRef="begin" targetRef="check"/><bpmn:sequenceFlow id="f2" sourceRef="check" targetRef="x"/>
    <bpmn:sequenceFlow id="f3" sourceRef="x" targetRef="split"><bpmn:conditionExpression xsi:type="bpmn:tFormalExpression">ok</bpmn:conditionExpression></bpmn:sequenceFlow>
    <bpmn:sequenceFlow id="f4" sourceRef="x" targetRef="end" name="no"/>
    <bpmn:sequenceFlow id="f5" sourceRef="split" targetRef="a"/><bpmn:sequenceFlow id="f6" sourceRef="split" targetRef="b"/>
    <bpmn:sequenceFlow id="f7" sourceRef="a" targetRef="join"/><bpmn:sequenceFlow id="f8" sourceRef="b" targetRef="join"/>
    <bpmn:sequenceFlow id="f9" sourceRef="join" targetRef="end"/><bpmn:sequenceFlow id="f10" sourceRef="late" targetRef="end"/>
  </bpmn:process>
</bpmn:definitions>"""

MODEL = """<mxGraphModel dx="1"><root><mxCell id="0"/><mxCell id="1" parent="0"/>
<mxCell id="pool" value="Shop" style="swimlane;html=1" vertex="1" parent="1"/>
<mxCell id="lane" value="&lt;b&gt;Clerk&lt;/b&gt;" style="swimlane;html=1;startSize=20" vertex="1" parent="pool"/>
<mxCell id="b" value="" style="ellipse;whiteSpace=wrap" vertex="1" parent="lane"/>
<object label="Check&lt;div&gt;the order&lt;/div&gt;" id="c"><mxCell style="rounded=1;html=1" vertex="1" parent="lane"/></object>
<mxCell id="d" value="Good&amp;nbsp;one?" style="rhombus;html=1" vertex="1" parent="lane"/>
<mxCell id="e" value="Done" style="ellipse;html=1" vertex="1" parent="pool"/>
<mxCell id="note" value="A title" style="text;html=1" vertex="1" parent="1"/>
<mxCell id="e1" edge="1" parent="1" source="b" target="c"/><mxCell id="e2" edge="1" parent="1" source="c" target="d"/>
<mxCell id="e3" value="yes" edge="1" parent="1" source="d" target="e"/><mxCell id="e4" edge="1" parent="1" source="d" target="c"/>
<mxCell id="e4l" value="no" style="edgeLabel;html=1" vertex="1" connectable="0" parent="e4"/>
<mxCell id="loose" edge="1" parent="1" source="d"/>
</root></mxGraphModel>"""
DRAWN = [
    "Clerk: (Start -> 2", "Clerk: Check/the order -> 3", "Clerk: ?Good one? -> 4 if yes, 2 if no", "Shop: )Done",
]  # fmt: skip


def compressed(model: str) -> str:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = squeeze.compress(quote(model, safe="").encode()) + squeeze.flush()
    return f'<mxfile host="x"><diagram id="1" name="Page-1">{base64.b64encode(packed).decode()}</diagram></mxfile>'


def read(text: str, name: str = "") -> list[str]:
    return told(formats.read(text.encode(), name))


def test_bpmn_with_pools_lanes_and_gateways() -> None:
    assert read(BPMN) == [
        "Customer: (Start -> 2", "Customer: Order/goods -> 3", "Shop: Order arrives -> 4", "Office: Check -> 5, 6",
        "Shop: Too late -> 9", "Clerk: ?Good? -> 9 if no, 7 if ok, 8 if ok", "Shop: Pack -> 9", "Shop: Bill -> 9",
        "Shop: )End",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [MODEL, f"<mxfile><diagram>{MODEL}</diagram></mxfile>", compressed(MODEL)],
    ids=["model", "file", "packed"],
)
def test_drawio_plain_and_compressed(text: str) -> None:
    assert read(text) == DRAWN


def test_a_page_of_drawio_is_chosen() -> None:
    other = '<mxGraphModel><root><mxCell id="0"/><mxCell id="1" parent="0"/><mxCell id="a" value="Only" vertex="1" parent="1"/></root></mxGraphModel>'
    both = f"<mxfile><diagram>{MODEL}</diagram><diagram>{other}</diagram></mxfile>".encode()
    assert told(formats.read(both, page=2)) == [": Only"]
    with pytest.raises(InvalidTask, match="no page 3; it has 2"):
        formats.read(both, page=3)


def test_json_with_and_without_arrows() -> None:
    assert read('[{"action": "a", "role": "x"}, {"action": "b", "kind": "decision", "next": [{"to": 1, "condition": "no"}, 2]}]', "x.json") == [
        "x: a -> 2", ": ?b -> 1 if no, 2",
    ]  # fmt: skip
    assert read(
        '{"steps": [{"number": 10, "action": "a", "next": 20}, {"number": 20, "action": "b"}]}', "x.json"
    ) == [": a -> 2", ": b"]


def entities(kind: str) -> str:
    return {
        "laughs": '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><mxfile><diagram>&b;</diagram></mxfile>',
        "file": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><mxfile><diagram>&a;</diagram></mxfile>',
        "parameter": '<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:1/x"> %a;]><mxfile/>',
    }[kind]


@pytest.mark.parametrize("kind", ["laughs", "file", "parameter"])
def test_entities_are_refused(kind: str) -> None:
    with pytest.raises(InvalidTask, match="defines entities"):
        read(entities(kind), "x.drawio")


@pytest.mark.parametrize(
    ("data", "name", "said"),
    [
        (b"<mxfile><diagram>####</diagram></mxfile>", "", "cannot be unpacked"),
        (
            b"<mxfile><diagram>" + base64.b64encode(b"\xff" * 40) + b"</diagram></mxfile>",
            "",
            "cannot be unpacked",
        ),
        (compressed(MODEL)[:600].encode() + b"</diagram></mxfile>", "", "cut off|cannot be unpacked"),
        (compressed("A" * 40_000_000).encode(), "", "more than 33,554,432 bytes, unpacked"),
        (b"<mxfile>" + b"<a>" * 5000, "", "more than 100 in each other"),
        (b"<mxfile><diagram/>", "", "not well-formed"),
        (b"<mxfile/>", "", "no page 1"),
        (b"<svg/>", "x.bpmn", "no diagram that can be read as text"),
        (b"<definitions/>", "", "no `process`"),
        (b"\x00\x01", "x.mmd", "no diagram that can be read as text"),
        (b"graph TD\n\xff", "x.mmd", "not UTF-8"),
        (b"[1]", "x.json", "expected"),
        (b'{"steps": []}', "x.json", "no steps"),
        (b'[{"action": "a", "next": 7}]', "x.json", "step 1: `next` leads to '7'"),
        (b'[{"action": "a", "kind": "odd"}]', "x.json", "step 1 needs"),
        (b"[" * 100_000, "x.json", "nested too deeply|not JSON"),
        (b"hello", "hello.txt", "Give Mermaid"),
    ],
)
def test_broken_files_are_named_for_what_they_are(data: bytes, name: str, said: str) -> None:
    with pytest.raises(InvalidTask, match=said):
        formats.read(data, name)


def test_groups_in_a_circle_are_no_endless_loop() -> None:
    cells = "".join(
        f'<mxCell id="{one}" vertex="1" parent="{other}"/>' for one, other in ("ab", "bc", "ca", "xa")
    )
    with pytest.raises(InvalidTask, match="circle"):
        read(f"<mxGraphModel><root>{cells}</root></mxGraphModel>")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("graph TD\n" + "\n".join(f"a{number} --> b{number}" for number in range(1500)), "x.mmd"),
        (
            "sequenceDiagram\n"
            "A->>B: x\n" + "".join(f"opt {number}\nend\n" for number in range(60)) + "A->>B: y",
            "x.mmd",
        ),
        ("@startuml\nstart\n" + "if (a) then (b)\nendif\n" * 5000 + "@enduml", "x.puml"),
        (json.dumps([{"action": "a", "next": list(range(1, 101))}] * 100), "x.json"),
    ],
    ids=["steps", "doubling", "blocks", "arrows"],
)
def test_there_is_an_end_to_how_much_is_read(text: str, name: str) -> None:
    with pytest.raises(InvalidTask) as raised:
        formats.read(text.encode(), name)
    assert isinstance(raised.value, InputTooLarge) or "same number" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("graph TD\nA -- " + " " * 4000, "x.mmd"),
        ("graph TD\nA " + "--" * 2400, "x.mmd"),
        ("graph TD\n" + "%%{" * 80_000, "x.mmd"),
        ("---\n" + "\n" * 200_000, "x.mmd"),
        ("stateDiagram\n" + "a" + "-" * 4900, "x.mmd"),
        ("sequenceDiagram\nA" + "->>" * 1600, "x.mmd"),
        ("@startuml\nrectangle a\n" + "a" + "." * 4900, "x.puml"),
        ("@startuml\nstart\nif " + "(a)is(" * 800, "x.puml"),
        ("@startuml\nstart\n:" + "a\n" * 100_000, "x.puml"),
        ("@startuml\n" + "o" * 4900, "x.puml"),
        ("<?a?>" * 800, "x.bpmn"),
        ("<!-- a -->" * 400 + "<", "x.bpmn"),
    ],
)
@pytest.mark.timeout(20)
def test_no_line_takes_for_ever(text: str, name: str) -> None:
    with pytest.raises(InvalidTask):
        formats.read(text.encode(), name)
