"""The mean of a tensor over all processes."""

from torch import Tensor, distributed

__all__ = ["mean_over_processes"]


def mean_over_processes(local: Tensor) -> Tensor:
    """Average a tensor over the processes of the default group; without one, return the tensor itself.

    All processes must call this function with tensors of the same shape.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return local
    total = local.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
