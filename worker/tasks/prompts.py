"""Prompts are files: `worker/prompts/<name>.<language>.txt`, with `$placeholders`."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template

from worker.tasks.language import FALLBACK, NAMES


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt in one language.

    Attributes:
        name: what it is for.
        language: ISO 639 code the answer is wanted in.
        text: instructions with `$placeholders`.
        version: first 12 hex digits of the text's sha256; changes with every edit.
    """

    name: str
    language: str
    text: str
    version: str

    @property
    def placeholders(self) -> frozenset[str]:
        """The names `fill` wants."""
        return frozenset(Template(self.text).get_identifiers())

    def fill(self, **values: object) -> str:
        """The instructions with the placeholders filled in.

        Raises:
            ValueError: the values are not exactly the placeholders.
        """
        if set(values) != self.placeholders:
            raise ValueError(f"prompt {self.name}: wants {sorted(self.placeholders)}, got {sorted(values)}")
        return Template(self.text).substitute(values)


@cache
def prompt(name: str, language: str) -> Prompt:
    """The prompt in a language; one without a file of its own gets English and is told how to answer."""
    folder = files("worker") / "prompts"
    own = folder / f"{name}.{language}.txt"
    if own.is_file():
        text = own.read_text("utf-8").strip()
    else:
        english = (folder / f"{name}.{FALLBACK}.txt").read_text("utf-8").strip()
        text = f"{english}\nAnswer in {NAMES[language]}."
    return Prompt(name, language, text, hashlib.sha256(text.encode()).hexdigest()[:12])


def block(text: str) -> str:
    """A text between markers that do not occur in it, so that it cannot pretend to have ended."""
    marker, number = "text", 1
    while f"</{marker}>" in text:
        number += 1
        marker = f"text{number}"
    return f"<{marker}>\n{text}\n</{marker}>"


def ask(instructions: str, text: str) -> list[dict[str, str]]:
    """The messages of a task: one user message, which every chat template takes (some refuse `system`)."""
    return [{"role": "user", "content": f"{instructions}\n\n{block(text)}"}]
