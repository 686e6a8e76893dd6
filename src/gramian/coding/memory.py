"""Whether a learning run fits into memory: asked before it begins, since a system that runs out of it kills."""

import os
from pathlib import Path

import torch

from gramian.coding.run_settings import RunSettings
from gramian.errors import OptionError

__all__ = ["available_memory", "check_memory", "least_memory"]

_MEMINFO = Path("/proc/meminfo")
_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def check_memory(settings: RunSettings, *, sharing: int = 1) -> None:
    """Check that a run can fit into memory.

    Args:
        settings: What to do.
        sharing: Among how many processes a batch is shared out.

    Raises:
        OptionError: If it needs more than there is, by an estimate that is never too large.
    """
    here, there = least_memory(settings, sharing=sharing)
    device = torch.device(settings.device)
    needs = [(here if device.type != "cpu" else here + there, available_memory())]
    if device.type == "cuda":
        needs.append((there, float(torch.cuda.mem_get_info(device)[0])))
    for needed, available in needs:
        if needed > available:
            raise OptionError(
                f"the settings must fit into memory; {settings.groups} groups of {settings.size} atoms of "
                f"{settings.length} numbers and batches of {settings.batch} need at least {_shown(needed)}, and "
                f"{_shown(available)} are free; try fewer groups or a smaller batch"
            )


def least_memory(settings: RunSettings, *, sharing: int = 1) -> tuple[int, int]:
    """Give the bytes that a process of a run needs at least, where patches are drawn and where it learns.

    Counted are, in float32, there the first dictionary, the one to be written and the samples of a step; here the
    dictionary and the next one, the codes of a batch, where inference goes next and their gradient, and what is left of
    the samples; and, for the online update, the moments and those of a batch.

    Examples:
        >>> least_memory(RunSettings(groups=64, size=4, patch=16, batch=128))
        (655360, 1048576)
    """
    length, atoms = settings.length, settings.groups * settings.size
    batch, local = settings.batch // sharing, atoms // settings.spread
    drawn = 2 * length * atoms + settings.batch * length
    learned = 2 * length * local + 3 * batch * local + batch * length
    if settings.update == "online":
        learned += 2 * atoms**2 + 2 * length * atoms
    return 4 * drawn, 4 * learned


def available_memory() -> float:
    """Give the bytes that a process may still have: free memory and swap, or the limit of its container."""
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


def _shown(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
