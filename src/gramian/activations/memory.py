"""Check before a run on activations that it fits into memory."""

import torch

from gramian.activations.settings import FeatureSettings
from gramian.coding.encoders.products import LARGEST
from gramian.coding.runs.memory import available_memory
from gramian.errors import OptionError

__all__ = ["check_memory", "least_memory"]


def check_memory(settings: FeatureSettings, length: int, *, sharing: int = 1) -> None:
    """Check that a run can fit into memory.

    Args:
        settings: Settings of the run.
        length: Length l of a sample.
        sharing: Number of processes that share a batch.

    Raises:
        OptionError: If a lower bound of the memory that the run needs exceeds the available memory.
    """
    on_cpu, on_device = least_memory(settings, length, sharing=sharing)
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


def least_memory(settings: FeatureSettings, length: int, *, sharing: int = 1) -> tuple[int, int]:
    """Return lower bounds of the bytes that a process needs on the CPU, which draws samples and writes, and the device.

    The CPU holds in float32 the samples of a step and, at a checkpoint, a copy of the parameters with their moments.
    The device holds the parameters, their gradient and two moments; the samples, and the pre-codes with their gradient.

    Examples:
        >>> settings = FeatureSettings(store="", groups=4, size=2, active=1, batch=10)
        >>> least_memory(settings, 16)
        (3712, 5376)
    """
    atoms, batch = settings.groups * settings.size, settings.batch // sharing
    parameters = length * atoms * (2 if settings.encoder == "linear" else 1)
    drawn = batch * length + 3 * parameters
    learned = 4 * parameters + batch * length + 2 * min(batch * atoms, LARGEST)
    return 4 * drawn, 4 * learned
