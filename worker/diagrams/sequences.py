"""Sequence diagrams, read: who sends what to whom, in Mermaid's words and in PlantUML's."""

import re
from dataclasses import dataclass

from worker.diagrams.flow import Flow
from worker.diagrams.graph import NotUnderstood
from worker.diagrams.process import Process
from worker.diagrams.words import plain


@dataclass(frozen=True, slots=True)
class Words:
    """What differs between the two languages.

    Attributes:
        message: groups `source`, `arrow`, `target`, `text`.
        participant: groups `name`, `title`, either way round.
        ignored: lines that tell nothing of who does what.
        long: what begins something of several lines that is ignored, and what ends it.
    """

    message: re.Pattern[str]
    participant: re.Pattern[str]
    ignored: re.Pattern[str]
    long: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = ()


_NEVER = re.compile(r"(?!)")
MERMAID = Words(
    message=re.compile(
        r"(?=[^:\n]*:)(?P<source>[^:\n]+?)\s*(?:\(\))?(?P<arrow><<-?->>|-?-(?:>>|>|x|\)))\s*(?:\(\))?[+-]?\s*(?P<target>[^:\n]+?)\s*"
        r":\s*(?P<text>.*)"
    ),
    participant=re.compile(
        r"(?:create\s+)?(?:participant|actor)\s+(?P<name>[^@\s][^@\n]*?)(?:@\{.*\})?(?:\s+as\s+(?P<title>.+))?$",
        re.IGNORECASE,
    ),
    ignored=re.compile(
        r"(?:autonumber|activate|deactivate|destroy|note|links?|properties|details|title|accTitle|accDescr)\b.*",
        re.IGNORECASE,
    ),
)
PLANTUML = Words(
    message=re.compile(
        r"(?P<source>\"[^\"]+\"|[\w.@]++|\[|\?)?\s*(?P<arrow>[<ox/\\]*<?<?-{1,2}(?:\[[^\]]*\])?-?>?>?[ox/\\>]*+)\s*"
        r"(?P<target>\"[^\"]+\"|[\w.@]++|\]|\?)?(?:\s*(?:\+\+|--|\*\*|!!)(?:\s*#\w+)?)*\s*(?::\s*(?P<text>.*))?$"
    ),
    participant=re.compile(
        r"(?:create\s+)?(?:participant|actor|boundary|control|entity|database|collections|queue)\s+"
        r"(?:\"(?P<quoted>[^\"]+)\"|(?P<plain>[^\s\"]+))(?:\s+as\s+(?:\"(?P<title>[^\"]+)\"|(?P<name>[^\s\"]+)))?.*$"
    ),
    ignored=re.compile(
        r"(?:autonumber|activate|deactivate|destroy|create|return|[hr]?note|ref|title|header|footer|hide|legend|"
        r"skinparam|box|end box|newpage|mainframe|order|left to|top to)\b.*|[!&].*|==.*|\.\.\..*|\|\|.*",
        re.IGNORECASE,
    ),
    long=(
        (re.compile(r"(?:[hr]?note|ref)\b[^:]*$"), re.compile(r"end ?(?:[hr]?note|ref)$")),
        (re.compile(r"(?:legend|title|header|footer)$"), re.compile(r"end ?(?:legend|title|header|footer)$")),
        (re.compile(r"(?:skinparam|<style>).*(?:\{|<style>)$"), re.compile(r"\}|</style>$")),
    ),
)

_BLOCK = re.compile(r"(alt|opt|loop|par|par_over|critical|break|group|rect)\b\s*(.*)", re.IGNORECASE)
_OTHERWISE = re.compile(r"(else|and|option|also)\b\s*(.*)", re.IGNORECASE)
_END = re.compile(r"end(?:\s+(?:alt|opt|loop|par|critical|break|group))?$", re.IGNORECASE)


def read(text: str, start: int, words: Words) -> Process:
    """Every message is a step of its sender.

    Args:
        text: of the diagram.
        start: where its messages begin.
        words: of its language.

    Raises:
        NotUnderstood: a line is no message, participant or block.
        InputTooLarge: there are too many messages.
    """
    flow, titles = Flow(), dict[str, str]()
    first = text.count("\n", 0, start) + 1
    skipping: re.Pattern[str] | None = None
    for number, raw in enumerate(text[start:].split("\n"), first):
        line = raw.strip().rstrip(";").strip()
        if skipping is not None:
            skipping = None if skipping.match(line) else skipping
        elif not line:
            continue
        elif ending := next((end for begin, end in words.long if begin.match(line)), None):
            skipping = ending
        elif not _block(flow, line, number):
            _line(flow, titles, words, line, number)
    if flow.blocks:
        raise NotUnderstood(f"`{flow.blocks[-1].kind}` has no `end`")
    for node in flow.graph.nodes.values():
        node.role = titles.get(node.role, node.role)
    return flow.process()


def _line(flow: Flow, titles: dict[str, str], words: Words, line: str, number: int) -> None:
    if found := words.participant.match(line):
        groups = found.groupdict()
        shown = groups.get("quoted") or groups.get("plain") or groups["title"] or groups["name"]
        name = groups["name"] or shown
        if groups["title"] and groups.get("plain"):
            name, shown = groups["plain"], groups["title"]
        titles[name.strip()] = plain(shown.strip().strip('"'))
    elif words.ignored.match(line):
        return
    elif (found := words.message.match(line)) and (found["source"] or found["target"]):
        source, target = (_name(found[side]) for side in ("source", "target"))
        if "<" in found["arrow"] and ">" not in found["arrow"]:
            source, target = target, source
        shown_target = titles.get(target, target)
        said = plain((found["text"] or "").replace("\\n", "\n")).strip()
        to = f" → {shown_target}" if target and target != source else ""
        flow.step(f"{said or '…'}{to}", role=source)
    else:
        raise NotUnderstood(f"expected a message such as `A->>B: text`; found {line[:40]!r}", number)


def _name(found: str | None) -> str:
    name = (found or "").strip().strip('"')
    return "" if name in {"[", "]", "?"} else name


def _block(flow: Flow, line: str, number: int) -> bool:
    """Whether the line opens, divides or ends a block."""
    if found := _BLOCK.match(line):
        kind, condition = found[1].lower(), plain(found[2].strip("[] "))
        if kind not in {"rect", "group"} and not flow.ends:
            flow.step("", "start", role="")
        block = flow.open(kind)
        if kind in {"alt", "opt", "loop", "break", "critical"}:
            flow.when(condition)
        if kind == "loop":
            flow.waiting.append(block)
        return True
    if (found := _OTHERWISE.match(line)) and flow.blocks:
        block = flow.blocks[-1]
        condition = plain(found[2].strip("[] "))
        block.covered = block.covered or found[1].lower() == "else"
        flow.branch(block, condition if block.kind != "par" else "")
        return True
    if _END.match(line):
        if not flow.blocks:
            raise NotUnderstood("`end` without a block that it ends", number)
        _close(flow)
        return True
    return False


def _close(flow: Flow) -> None:
    block = flow.blocks[-1]
    if block.kind == "loop" and block.head:
        flow.back_to(block.head)
    if block.kind == "break":
        block.ends, flow.ends = [], []
    flow.close(block, passing=block.kind in {"opt", "break"} or (block.kind == "alt" and not block.covered))
