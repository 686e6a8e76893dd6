"""Entry-wise work on matrices [m, rows, columns], one chunk at a time, so that temporary results stay in the cache.

A penalty that is not a sum over entries gets whole matrices.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gramian.penalties import Penalty

__all__ = ["CHUNK_SIZE", "SERIAL_CHUNK_SIZE", "frobenius", "prox_residual_", "scale_", "split", "subgradient_", "value"]

CHUNK_SIZE = 1 << 18
"""Number of entries of a chunk; several copies of it fit into the cache."""

SERIAL_CHUNK_SIZE = 1 << 14
"""Largest chunk for which torch uses one thread. For a larger one it wakes other threads, which then spin for
milliseconds and delay all other work of the processor."""


def split(X: Tensor, size: int = CHUNK_SIZE) -> tuple[Tensor, ...]:
    """Split along the rows into chunks of about `size` entries; a smaller tensor stays whole."""
    row = X.numel() // max(1, X.shape[-2])
    return X.split(max(1, size // max(1, row)), dim=-2) if X.numel() > size else (X,)


def value(X: Tensor, penalty: Penalty, size: int = CHUNK_SIZE) -> Tensor:
    """Compute μ(X) of each matrix."""
    if X.numel() <= size:
        return penalty.value(X)
    values = [_sum(penalty.select_groups(which), groups, size) for which, groups in _groups(X, size)]
    return values[0] if len(values) == 1 else torch.cat(values)


def subgradient_(X: Tensor, penalty: Penalty, size: int = CHUNK_SIZE) -> Tensor:
    """Compute G(X); a large X is overwritten with it, so X must not be used afterwards."""
    if X.numel() <= size:
        return penalty.subgradient(X)
    for which, groups in _groups(X, size):
        selected = penalty.select_groups(which)
        for rows in _rows(selected, groups, size):
            rows.copy_(selected.subgradient(rows))
    return X


def prox_residual_(X: Tensor, penalty: Penalty, tau: Tensor, size: int = CHUNK_SIZE) -> Tensor:
    """Compute C_τ(X) for a τ of shape [m, 1, 1] or []; a large X is overwritten, as by `subgradient_`."""
    if X.numel() <= size:
        return penalty.prox_residual(X, tau)
    for which, groups in _groups(X, size):
        selected = penalty.select_groups(which)
        for rows in _rows(selected, groups, size):
            rows.copy_(selected.prox_residual(rows, tau[which] if tau.ndim else tau))
    return X


def frobenius(X: Tensor, size: int = CHUNK_SIZE) -> Tensor:
    """Compute ‖X‖_F of each matrix."""
    norms = [torch.linalg.vector_norm(groups, dim=(1, 2)) for _, groups in _groups(X, size)]
    return norms[0] if len(norms) == 1 else torch.cat(norms)


def scale_(X: Tensor, factor: float, size: int = CHUNK_SIZE) -> Tensor:
    """Multiply by a number, in place."""
    for _, groups in _groups(X, size):
        groups.mul_(factor)
    return X


def _groups(X: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
    m = len(X)
    if X.numel() <= size:
        yield slice(m), X
        return
    step = max(1, size // X[0].numel())
    for first in range(0, m, step):
        which = slice(first, first + step)
        yield which, X[which]


def _rows(penalty: Penalty, groups: Tensor, size: int) -> tuple[Tensor, ...]:
    return split(groups, size) if penalty.accepts_blocks else (groups,)


def _sum(penalty: Penalty, groups: Tensor, size: int) -> Tensor:
    chunks = _rows(penalty, groups, size)
    return (
        penalty.value(groups) if len(chunks) == 1 else torch.stack([penalty.value(rows) for rows in chunks]).sum(dim=0)
    )
