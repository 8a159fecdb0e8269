"""Blocks as Markdown."""

import re
from collections.abc import Sequence

from worker.documents.layout import Block

#: What at the beginning of a paragraph would make it something else.
_MARKUP = re.compile(r"^(#{1,6}\s|>|```|~~~|\|)")


def markdown(blocks: Sequence[Block]) -> str:
    """A page; "" where there is nothing on it."""
    said: list[str] = []
    for number, block in enumerate(blocks):
        if number:
            both_items = block.kind == "item" and blocks[number - 1].kind == "item"
            said.append("\n" if both_items else "\n\n")
        said.append(_one(block))
    return "".join(said)


def _one(block: Block) -> str:
    if block.kind == "table":
        return _table(block.rows)
    if block.kind == "heading":
        return f"{'#' * block.level} {block.text}"
    if block.kind == "paragraph":
        return _MARKUP.sub(r"\\\1", block.text)
    return block.text


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
