"""The least memory that a run on activations needs."""

from gramian.activations.settings import FeatureSettings
from gramian.coding.encoders.products import LARGEST

__all__ = ["least_memory"]


def least_memory(settings: FeatureSettings, length: int, *, sharing: int = 1) -> tuple[int, int]:
    """Return lower bounds on the bytes that a process needs on the CPU, which draws and writes, and on the device.

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
