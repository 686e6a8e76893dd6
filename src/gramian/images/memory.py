"""Check before a learning run that it fits into memory, because the system kills processes when memory runs out."""

import torch

from gramian.coding.runs.memory import available_memory
from gramian.errors import OptionError
from gramian.images.settings import RunSettings

__all__ = ["check_memory", "least_memory"]


def check_memory(settings: RunSettings, *, sharing: int = 1) -> None:
    """Check that a run can fit into memory.

    Args:
        settings: Settings of the run.
        sharing: Number of processes that share a batch.

    Raises:
        OptionError: If a lower bound of the memory that the run needs exceeds the available memory.
    """
    on_cpu, on_device = least_memory(settings, sharing=sharing)
    device = torch.device(settings.device)
    needs = [(on_cpu if device.type != "cpu" else on_cpu + on_device, available_memory())]
    if device.type == "cuda":
        needs.append((on_device, float(torch.cuda.mem_get_info(device)[0])))
    for needed, available in needs:
        if needed > available:
            raise OptionError(
                f"the settings must fit into memory; {settings.groups} groups of {settings.size} atoms of "
                f"{settings.length} numbers and batches of {settings.batch} need at least {_in_gigabytes(needed)}, and "
                f"{_in_gigabytes(available)} are free; try fewer groups or a smaller batch"
            )


def least_memory(settings: RunSettings, *, sharing: int = 1) -> tuple[int, int]:
    """Return lower bounds of the bytes that a process needs on the CPU, which draws patches, and on the device.

    The CPU holds in float32 the initial dictionary, the copy to write and the samples of a step. The device holds the
    dictionary and the next one; codes, extrapolated codes and their gradient; the residual of the samples; and for the
    online update the moments of all batches and of one batch.

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


def _in_gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
