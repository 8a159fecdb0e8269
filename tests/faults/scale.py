"""Two scales of every scenario: short in `make test`, long in `make faults`."""

import os
from typing import TypeVar

T = TypeVar("T")

#: Whether this is the long form.
LONG = os.environ.get("FAULTS") == "long"


def scaled(short: T, long: T) -> T:
    """The number for the form that runs."""
    return long if LONG else short


#: Seconds of the soak; `FAULT_SOAK_S` says how long the long one is.
SOAK_S = scaled(24.0, float(os.environ.get("FAULT_SOAK_S", "1800")))
