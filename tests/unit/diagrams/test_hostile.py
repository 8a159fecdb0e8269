"""Diagrams made to take long, or much memory, do not."""

import re

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
