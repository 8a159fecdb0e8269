"""How much of the machine this process may use: what its scheduler and its container allow (cgroup v2)."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cpus(cgroup: Path = _CGROUP) -> int:
    """Whole CPUs, at least 1."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        allowed = os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):  # no limit
        return allowed


def memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Bytes of memory."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(there, int((cgroup / "memory.max").read_text()))
    except (OSError, ValueError):  # no limit
        return there
