"""A process as a Markdown table: number, action, role."""

import re

from worker.diagrams.process import Arrow, Process

_HEADINGS = {"en": ("Action", "Role"), "pl": ("Czynność", "Rola")}
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~])")


def write(process: Process, language: str = "en") -> str:
    """A row a step; where it does not simply go on with the next one, the action says where to.

    Args:
        process: the steps.
        language: of the headings; English where there are none in it.
    """
    action, role = _HEADINGS.get(language, _HEADINGS["en"])
    rows = [f"| № | {action} | {role} |", "| --- | --- | --- |"]
    for number, step in enumerate(process.steps, 1):
        said = _cell(step.action)
        if ways := _ways(step.next, number):
            said += f" ({ways})"
        rows.append(f"| {number} | {said} | {_cell(step.role)} |")
    return "\n".join(rows) + "\n"


def _ways(arrows: tuple[Arrow, ...], number: int) -> str:
    if len(arrows) < 2 and all(arrow.to == number + 1 and not arrow.condition for arrow in arrows):
        return ""
    return "; ".join(f"{_cell(arrow.condition)} → {arrow.to}".strip() for arrow in arrows)


def _cell(text: str) -> str:
    return _MARKUP.sub(r"\\\1", text).replace("\n", "<br>")
