"""Ctrl-C and SIGTERM, heard wherever they arrive.

Python ignores an exception that a signal handler raises inside a finalizer or a callback of a library.
Whoever waits in a loop therefore asks `check` as well.
"""

import signal
from types import FrameType
from typing import NoReturn

_arrived: list[int] = []


def install() -> None:
    """Make both signals a KeyboardInterrupt, so that whatever was started is stopped."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def check() -> None:
    """Nothing, unless a signal has arrived.

    Raises:
        KeyboardInterrupt: one has.
    """
    if _arrived:
        raise KeyboardInterrupt


def forget() -> None:
    """Ctrl-C was for something smaller than the command, which goes on; not so SIGTERM.

    Raises:
        KeyboardInterrupt: the command is to end.
    """
    _arrived[:] = [number for number in _arrived if number != signal.SIGINT]
    check()


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    _arrived.append(number)
    raise KeyboardInterrupt
