"""The least memory that a run on pictures needs."""

from gramian.images.settings import RunSettings

__all__ = ["least_memory"]


def least_memory(settings: RunSettings, *, sharing: int = 1) -> tuple[int, int]:
    """Return lower bounds on the bytes that a process needs on the CPU, which draws patches, and on the device.

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
