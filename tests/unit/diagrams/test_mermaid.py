"""Mermaid as people write it."""

import pytest

from tests.unit.diagrams.told import told
from worker.diagrams import formats
from worker.errors import InvalidTask


def read(text: str) -> list[str]:
    return told(formats.read(text.encode(), "x.mmd"))


def test_a_flowchart_with_subgraphs_as_roles() -> None:
    assert read("""
---
title: Orders
---
%%{init: {"theme": "dark"}}%%
flowchart LR
    %% a comment
    A([Start]) --> B[Check the <b>order</b>]:::hot
    subgraph clerk [Clerk]
        direction TB
        B --> C{Complete?}
        C -->|no| D(Ask the customer)
        D -.-> B
    end
    subgraph "Ware house"
        E[[Pack it]] & F[/Print a label/] --> G[Ship<br/>it]
    end
    C -- yes --> E & F
    G ==> H((Done))
    classDef hot fill:#f00;
    class G hot
    style A fill:#fff
    linkStyle 0 stroke:#f00
    click B "https://example.org" _blank
""") == [
        ": (Start -> 2",
        "Clerk: Check the order -> 3",
        "Clerk: ?Complete? -> 4 if no, 5 if yes, 6 if yes",
        "Clerk: Ask the customer -> 2",
        "Ware house: Pack it -> 7",
        "Ware house: Print a label -> 7",
        "Ware house: Ship/it -> 8",
        ": )Done",
    ]  # fmt: skip


def test_statements_in_one_line_and_nodes_without_text() -> None:
    assert read("graph TD;A-->B;B---C;C --x A; B <--> D") == [
        ": A -> 2",
        ": B -> 3, 4",
        ": C -> 1",
        ": D -> 2",
    ]


def test_new_shapes_edge_ids_and_quoted_labels() -> None:
    assert read("""flowchart TD
    a@{ shape: stadium, label: "Begin" } e1@--> b@{ shape: diam, label: "Which (one)?" }
    b -->|"1 | 2"| c["say #quot;hi#quot; #9829; &amp; go"]
    b -. "other" .-> d["`markdown **text**`"]
    c ~~~ d
""") == [": (Begin -> 2", ": ?Which (one)? -> 3 if 1 | 2, 4 if other", ': say "hi" ♥ & go', ": markdown **text**"]  # fmt: skip


def test_arrows_to_a_subgraph_lead_to_what_is_in_it() -> None:
    assert read("flowchart TD\nx --> team\nsubgraph team\n a --> b\nend\nteam --> y") == [
        ": x -> 2", "team: a -> 3", "team: b -> 4", ": y",
    ]  # fmt: skip


def test_a_sequence_diagram() -> None:
    assert read("""sequenceDiagram
    autonumber
    participant C as Customer
    actor S as Shop
    C->>+S: Order
    Note over C,S: anything
    alt in stock
        S->>S: Pack
    else sold out
        S-->>C: Regret
    end
    opt wants a receipt
        C-)S: Ask for it
    end
    loop every day
        S->>C: News
    end
    S-->>-C: Goods
""") == [
        "Customer: Order → Shop -> 2 if in stock, 3 if sold out",
        "Shop: Pack -> 4 if wants a receipt, 5 if every day",
        "Shop: Regret → Customer -> 4 if wants a receipt, 5 if every day",
        "Customer: Ask for it → Shop -> 5 if every day",
        "Shop: News → Customer -> 5, 6",
        "Shop: Goods → Customer",
    ]  # fmt: skip


def test_a_state_diagram() -> None:
    assert read("""stateDiagram-v2
    direction LR
    [*] --> New
    New --> Review : submitted
    state "In review" as Review
    state ok <<choice>>
    state Office {
        Review --> ok
        ok --> Signed : good
    }
    ok --> New : bad
    Signed --> [*]
    note right of New : whatever
""") == [
        ": (Start -> 2", ": New -> 3 if submitted", "Office: In review -> 4", "Office: ?ok -> 5 if good, 2 if bad",
        "Office: Signed -> 6", ": )End",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flowchart TD\nA[open --> B", "line 2: expected `]` after `[`"),
        ("flowchart TD\nA --> B\n\nB => C", "line 4: expected an arrow"),
        ("flowchart TD\nsubgraph x\nA", "line 2: this `subgraph` has no `end`"),
        ("flowchart TD\n", "there are no steps"),
        ("flowchart sideways\nA", "line 1: expected a direction"),
        ("pie\n a: 3", "line 1: expected `flowchart`"),
        ("sequenceDiagram\nA->>B: x\nnonsense", "line 3: expected a message"),
        ("sequenceDiagram\nalt x\nA->>B: x", "`alt` has no `end`"),
        ("stateDiagram\nstate x {\n a --> b", "'x' has no closing brace"),
        ("flowchart TD\n" + "a" * 6000, "line 2: it has more than 2,000 characters"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InvalidTask) as raised:
        read(text)
    assert said in str(raised.value)
