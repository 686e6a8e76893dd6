"""The mean of a tensor over all processes, and its rows from all processes."""

import torch
from torch import Tensor, distributed

__all__ = ["mean_over_processes", "rows_of_processes"]


def mean_over_processes(local: Tensor) -> Tensor:
    """Average a tensor over the processes of the default group; without one, return the tensor itself.

    All processes must call this function with tensors of the same shape.
    """
    if not _several():
        return local
    total = local.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def rows_of_processes(local: Tensor) -> Tensor:
    """Join the rows of a tensor from all processes of the default group; without one, return the tensor itself.

    All processes must call this function with tensors of the same shape.
    """
    if not _several():
        return local
    parts = [torch.empty_like(local) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, local.contiguous())
    return torch.cat(parts)


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
