"""PlantUML: graphs of roles and steps both ways; activity, sequence and state diagrams are read."""

import re

from worker.diagrams import plantuml_activity, plantuml_graph, sequences, states
from worker.diagrams.graph import NotUnderstood
from worker.diagrams.process import Process
from worker.diagrams.words import without

_START = re.compile(r"^[ \t]*@startuml\b[^\n]*\n", re.MULTILINE)
_END = re.compile(r"^[ \t]*@enduml\b", re.MULTILINE)
_COMMENT = re.compile(r"^[ \t]*'.*$", re.MULTILINE)

#: What only diagrams of a kind have, in the order in which they are asked.
_ACTIVITY = re.compile(
    r"^[ \t]*(?:start|stop|:[^\n]*|(?:if|while|switch)[ \t]*\(.*|repeat|fork|split|\|[^|\n]+\|.*)[ \t]*$",
    re.MULTILINE,
)
_STATE = re.compile(r"^[ \t]*(?:state\b|\[\*\]|[\w.]+[ \t]+-[\w\[\]#]*->[ \t]*\[\*\])", re.MULTILINE)
_GRAPH = re.compile(rf"^[ \t]*(?:{plantuml_graph.NOT_OF_SEQUENCES})[ \t]+[\"\w]", re.MULTILINE)
_MESSAGE = re.compile(r"^[^\n:{}]*(?:->|<-)", re.MULTILINE)
_LEGACY = re.compile(r"^[ \t]*\(\*\)", re.MULTILINE)


def is_plantuml(text: str) -> bool:
    """Whether it says so."""
    return _START.search(text) is not None


def read(text: str) -> Process:
    """The process of an activity, sequence, state or deployment diagram.

    Raises:
        NotUnderstood: it is another diagram, or not one at all.
        InputTooLarge: it has too many steps.
    """
    text = _COMMENT.sub("", without(text, "/'", "'/"))
    began = found.end() if (found := _START.search(text)) else 0
    ended = found.start() if (found := _END.search(text, began)) else len(text)
    text = text[:ended]
    if _LEGACY.search(text, began):
        raise NotUnderstood("this is the old syntax of activity diagrams; write `start`, `:step;`, `stop`")
    if _GRAPH.search(text, began):
        return plantuml_graph.read(text, began)
    if _ACTIVITY.search(text, began):
        return plantuml_activity.read(text, began)
    if _STATE.search(text, began):
        return states.read(text, began)
    if _MESSAGE.search(text, began):
        return sequences.read(text, began, sequences.PLANTUML)
    raise NotUnderstood("it is no activity, sequence, state or deployment diagram of PlantUML")


write = plantuml_graph.write
