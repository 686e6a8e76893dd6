"""The memory available to a process, and the check that a run fits into it."""

import os
from pathlib import Path

import torch

from gramian.coding.runs.run import RunOptions
from gramian.errors import OptionError

__all__ = ["available_memory", "check_memory"]

_MEMINFO = Path("/proc/meminfo")
_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def check_memory(settings: RunOptions, length: int, least: tuple[int, int]) -> None:
    """Check that a run can fit into memory, because the system kills processes when memory runs out.

    Args:
        settings: Settings of the run.
        length: Length l of a sample.
        least: Lower bounds on the bytes that a process needs on the CPU, which draws samples, and on the device.

    Raises:
        OptionError: If a lower bound exceeds the available memory.
    """
    on_cpu, on_device = least
    device = torch.device(settings.device)
    needs = [(on_cpu if device.type != "cpu" else on_cpu + on_device, available_memory())]
    if device.type == "cuda":
        needs.append((on_device, float(torch.cuda.mem_get_info(device)[0])))
    for needed, available in needs:
        if needed > available:
            raise OptionError(
                f"the settings must fit into memory; {settings.groups} groups of {settings.size} atoms of {length} "
                f"numbers and batches of {settings.batch} need at least {needed / 1e9:.3g} GB, and "
                f"{available / 1e9:.3g} GB are free; try fewer groups or a smaller batch"
            )


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
