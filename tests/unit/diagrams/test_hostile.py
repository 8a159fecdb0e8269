"""Diagrams made to take long, or much memory, do not."""

import re
import tracemalloc

import pytest

from tests.unit.diagrams.growth import MOST_GROWTH, growth
from worker.diagrams import (
    formats,
    mermaid_flowchart,
    plantuml_activity,
    plantuml_graph,
    sequences,
    states,
)
from worker.diagrams.graph import Graph
from worker.diagrams.process import Arrow, Process, Step
from worker.errors import InputTooLarge, InvalidTask

LINES: list[tuple[re.Pattern[str], str, str]] = [
    (plantuml_graph._ARROW, "note", ".a"),
    (states._ARROW, "hide", "-a"),
    (states._ARROW, "a -", "b"),
    (sequences.MERMAID.message, "a", "->>a"),
    (sequences.PLANTUML.message, "", "o"),
    (sequences.PLANTUML.message, "a->", "o"),
    (plantuml_activity._ACTION_END, "", ";<<"),
    (mermaid_flowchart._TEXT_LINK, "-. a", "."),
]


@pytest.mark.parametrize(
    ("pattern", "head", "part"), LINES, ids=[f"{head}…{part}" for _, head, part in LINES]
)
def test_no_line_takes_long(pattern: re.Pattern[str], head: str, part: str) -> None:
    def look(length: int) -> None:
        line = f"{head}{part * (length // len(part))}!"
        pattern.search(line) if pattern is plantuml_activity._ACTION_END else pattern.match(line)

    assert growth(look, 500) < MOST_GROWTH


def test_brackets_are_looked_for_once() -> None:
    def read(count: int) -> None:
        text = "graph TD\n" + "".join(f"a{place % 100}[/x\\]\n" for place in range(count))
        assert len(formats.read(text.encode(), "x.mmd").steps) == 100

    assert growth(read, 2_000) < MOST_GROWTH


def test_subgraphs_in_each_other_are_resolved_once() -> None:
    def unfold(count: int) -> None:
        graph = Graph(arrows=[("a0", f"a{place}", "") for place in range(count)])
        graph.unfold({f"a{place}": [f"a{(place + 1) % count}"] for place in range(count)})
        assert graph.arrows == []

    assert growth(unfold, 250) < MOST_GROWTH


def test_the_innermost_step_is_what_arrows_lead_to() -> None:
    graph = Graph()
    for name in ("x", "y", "z"):
        graph.node(name)
    graph.arrows = [("z", "outer", ""), ("outer", "z", ""), ("z", "inner", ""), ("one", "z", "")]
    graph.unfold({"outer": ["inner", "y"], "inner": ["x"], "one": ["two"], "two": ["one"]})
    assert graph.arrows == [("z", "x", ""), ("y", "z", ""), ("z", "x", "")]


LABEL = "x" * 1_900
BOMBS = {
    "labels of a fork": ["fork", *[":a;", "fork again"] * 900, ":b;", "end fork", *[f"-> {LABEL};"] * 100, ":c;"],
    "blocks of many ends": ["fork", *[":a;", "fork again"] * 900, "end fork", *["fork", f"-> {LABEL};"] * 45],
    "branches of many ends": ["fork", *[":a;", "fork again"] * 900, "end fork", "fork", *["kill", "fork again"] * 20_000],
    "leaving": ["while (x)", "fork", *[":a;", "fork again"] * 900, "end fork", "fork", *["break", "fork again"] * 20_000],
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_told_cannot_grow_without_end(name: str) -> None:
    text = "\n".join(["@startuml", "start", *BOMBS[name], "@enduml"]).encode()
    tracemalloc.start()
    try:
        with pytest.raises(InputTooLarge, match="too many branches"):
            formats.read(text, "x.puml")
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_conditions_tied_together_stay_short() -> None:
    joints = 50
    arrows = [f"j{place} -->|{LABEL}| j{place + 1}" for place in range(joints)]
    shapes = [f'j{place}[" "]' for place in range(1, joints)]
    process = formats.read("\n".join(["graph TD", *shapes, *arrows]).encode())
    assert [len(step.next[0].condition) for step in process.steps[:1]] == [2_000]


def test_blocks_are_not_in_each_other_without_end() -> None:
    for head, block in (("@startuml\nstart", "repeat"), ("sequenceDiagram\nA->>B: x", "loop y")):
        with pytest.raises(InvalidTask, match="more than 50 blocks in each other"):
            formats.read("\n".join([head, *[block] * 51]).encode())


def test_all_texts_together_are_bounded() -> None:
    steps = [Step("a" * 1_000, "r" * 500, next=(Arrow(1, "c" * 500),)) for _ in range(100)]
    assert len(Process.of(steps).steps) == 100
    with pytest.raises(InputTooLarge, match="202,000 characters in its texts, the limit is 200,000"):
        Process.of([*steps, steps[0]])


def test_lines_of_text_are_bounded() -> None:
    with pytest.raises(InputTooLarge, match="the limit for plantuml is 1,048,576"):
        formats.read(b"@startuml\n" + b"'\n" * 2**19)
