"""Run a program that dies with the process that started it, even when that one is killed with -9.

    python -I -S bound.py PARENT_PID PROGRAM [ARGUMENT …]

A file of its own that replaces itself with the program: `preexec_fn` is not safe in a process with threads.
Only Linux can bind a child to its parent; elsewhere the program is merely run.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Ask the kernel for SIGKILL on the parent's death, then become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)
    os.execvp(program[0], program)  # noqa: S606


if __name__ == "__main__":
    main()
