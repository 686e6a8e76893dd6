"""The memory that is available to a process."""

import os
from pathlib import Path

__all__ = ["available_memory"]

_MEMINFO = Path("/proc/meminfo")
_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available_memory() -> float:
    """Return the number of bytes available to a process: free memory and swap, or a lower limit of its container."""
    limits = [_free()]
    for path in _CONTAINER:
        try:
            limits.append(float(path.read_text()))
        except (OSError, ValueError):  # no container, or one without a limit
            continue
    return min(limits)


def _free() -> float:
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return 1024.0 * sum(float(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return float("inf")
