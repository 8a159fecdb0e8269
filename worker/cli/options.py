"""How options are read that several commands have."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_UNITS_S = {"h": 3600, "d": 86400}


def age(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    """A callback: seconds of `12h`, `30d`."""
    found = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", value)
    if not found:
        raise click.BadParameter(f"{value!r} is not 12h, 30d …")
    return int(found.group(1)) * _UNITS_S[found.group(2)]


def content(value: str) -> str:
    """`@file` is the content of that file, `@-` of standard input."""
    if not value.startswith("@"):
        return value
    try:
        return sys.stdin.read() if value == "@-" else Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value[1:]} cannot be read: {error}") from None


def pairs(text: Callable[[str], str] = str) -> Callable[..., dict[str, Any]]:
    """A callback for `key=value` options; a value that is not JSON is read by `text`."""

    def read(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for pair in values:
            name, separator, value = pair.partition("=")
            if not separator:
                raise click.BadParameter(f"{pair!r} is not key=value")
            try:
                arguments[name] = json.loads(value)
            except json.JSONDecodeError:
                arguments[name] = text(value)
        return arguments

    return read
