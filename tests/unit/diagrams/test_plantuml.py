"""PlantUML as people write it."""

import pytest

from tests.unit.diagrams.told import told
from worker.diagrams import formats
from worker.errors import InvalidTask


def read(text: str) -> list[str]:
    return told(formats.read(f"@startuml\n{text}\n@enduml\n".encode(), "x.puml"))


def test_an_activity_diagram_with_lanes() -> None:
    assert read("""
title Orders
skinparam shadowing false
' a comment
/' another
one '/
|#AntiqueWhite|c| Customer
start
:Order;
|Shop|
note right
  anything
end note
if (In stock?) then (yes)
  :Pack
  it;
  -> gently;
elseif (Soon?) then (yes)
  :Wait;
else (no)
  #pink:Regret;
  stop
endif
fork
  :Ship;
fork again
  :Send a bill;
end fork
|c|
:Unpack <b>it</b>;
stop
""") == [
        "Customer: (Start -> 2",
        "Customer: Order -> 3",
        "Shop: ?In stock? -> 4 if yes, 5",
        "Shop: Pack/it -> 9 if gently, 10 if gently",
        "Shop: ?Soon? -> 6 if yes, 7 if no",
        "Shop: Wait -> 9, 10",
        "Shop: Regret -> 8",
        "Shop: )End",
        "Shop: Ship -> 11",
        "Shop: Send a bill -> 11",
        "Customer: Unpack it -> 12",
        "Customer: )End",
    ]  # fmt: skip


def test_loops_of_activity_diagrams() -> None:
    assert read("""
start
repeat
  :Draft;
  backward:Think;
repeat while (Good?) is (no) not (yes)
while (Pages left?) is (yes)
  :Print (both sides);
  if (Jam?) then (yes)
    break
  endif
endwhile (no)
switch (Size)
case (big)
  :Fold;
case (small)
  :Clip;
endswitch
end
""") == [
        ": (Start -> 2",
        ": Draft -> 3",
        ": ?Good? -> 4 if no, 5 if yes",
        ": Think -> 2",
        ": ?Pages left? -> 6 if yes, 8 if no",
        ": Print (both sides) -> 7",
        ": ?Jam? -> 5, 8 if yes",
        ": ?Size -> 9 if big, 10 if small",
        ": Fold -> 11",
        ": Clip -> 11",
        ": )End",
    ]  # fmt: skip


def test_a_sequence_diagram() -> None:
    assert read("""
actor "The customer" as C
participant Shop
== Ordering ==
C -> Shop ++ : Order
note left: hm
return ok
Shop -> Shop : Pack
group try
C <-- Shop : Goods
end
par
Shop -[#red]> C : Bill
else
Shop ->] : Report
end
... later ...
C ->x Shop
""") == [
        "The customer: Order → Shop -> 2",
        "Shop: Pack -> 3",
        "Shop: Goods → The customer -> 4, 5",
        "Shop: Bill → The customer -> 6",
        "Shop: Report -> 6",
        "The customer: … → Shop",
    ]  # fmt: skip


def test_a_state_diagram() -> None:
    assert read("[*] -down-> A\nA --> B : go\nstate B {\n  [*] -> C\n}\nB -> [*]\nA : says this") == [
        ": (Start -> 2", ": says this -> 3 if go", "B: C -> 4", ": )End",
    ]  # fmt: skip


def test_boxes_and_arrows() -> None:
    assert read("""
left to right direction
frame Office {
  rectangle "Open the mail" as a
  hexagon "Important?" as b
}
database files
a --> b
b -right-> files : yes
b .> (Bin) : no
""") == ["Office: Open the mail -> 2", "Office: ?Important? -> 3 if yes, 4 if no", ": files", ": Bin"]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("start\n:never ends\n", "this `:` has no `;`"),
        ("start\nif (x) then (y)\n:a;", "`if` has no end"),
        ("start\nendif", "line 3: `endif` without a `if`"),
        ("start\nnonsense here", "line 3: expected `:step;`"),
        ("(*) --> a", "old syntax"),
        ("A -> B : x\nnonsense", "line 3: expected a message"),
        ("rectangle a\nnonsense here", "line 3: expected `rectangle"),
        ("start\nbreak", "`break` outside of a loop"),
        ("", "no activity, sequence, state or deployment diagram"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InvalidTask) as raised:
        read(text)
    assert said in str(raised.value)
