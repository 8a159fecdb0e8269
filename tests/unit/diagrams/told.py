"""A process in a few lines, for comparing."""

from worker.diagrams.process import Process

_MARKS = {"start": "(", "task": "", "decision": "?", "end": ")"}


def told(process: Process) -> list[str]:
    """`role: action -> 2, 3 if yes`, with ( for starts, ) for ends and ? for decisions before the action."""
    lines = []
    for step in process.steps:
        ways = ", ".join(
            f"{arrow.to} if {arrow.condition}" if arrow.condition else str(arrow.to) for arrow in step.next
        )
        line = f"{step.role}: {_MARKS[step.kind]}{step.action}" + (f" -> {ways}" if ways else "")
        lines.append(line.replace("\n", "/"))
    return lines
