"""Entry-wise work on matrices [m, rows, columns], one chunk at a time, so that temporary results stay in the cache.

A penalty that is not a sum over entries gets whole matrices.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gramian.penalties import Penalty

__all__ = ["frobenius", "prox_residual_", "scale_", "split", "subgradient_", "value"]

_SIZE = 1 << 18
"""Number of entries of a chunk; several copies of it fit into the cache."""


def split(X: Tensor) -> tuple[Tensor, ...]:
    """Split along the rows into chunks of about 2¹⁸ entries; a smaller tensor stays whole."""
    row = X.numel() // max(1, X.shape[-2])
    return X.split(max(1, _SIZE // max(1, row)), dim=-2) if X.numel() > _SIZE else (X,)


def value(X: Tensor, penalty: Penalty) -> Tensor:
    """Compute μ(X) of each matrix."""
    if X.numel() <= _SIZE:
        return penalty.value(X)
    values = [_sum(penalty.select_groups(which), groups) for which, groups in _groups(X)]
    return values[0] if len(values) == 1 else torch.cat(values)


def subgradient_(X: Tensor, penalty: Penalty) -> Tensor:
    """Compute G(X); a large X is overwritten with it, so X must not be used afterwards."""
    if X.numel() <= _SIZE:
        return penalty.subgradient(X)
    for which, groups in _groups(X):
        selected = penalty.select_groups(which)
        for rows in _rows(selected, groups):
            rows.copy_(selected.subgradient(rows))
    return X


def prox_residual_(X: Tensor, penalty: Penalty, tau: Tensor) -> Tensor:
    """Compute C_τ(X) for a τ of shape [m, 1, 1] or []; a large X is overwritten, as by `subgradient_`."""
    if X.numel() <= _SIZE:
        return penalty.prox_residual(X, tau)
    for which, groups in _groups(X):
        selected = penalty.select_groups(which)
        for rows in _rows(selected, groups):
            rows.copy_(selected.prox_residual(rows, tau[which] if tau.ndim else tau))
    return X


def frobenius(X: Tensor) -> Tensor:
    """Compute ‖X‖_F of each matrix."""
    norms = [torch.linalg.vector_norm(groups, dim=(1, 2)) for _, groups in _groups(X)]
    return norms[0] if len(norms) == 1 else torch.cat(norms)


def scale_(X: Tensor, factor: float) -> Tensor:
    """Multiply by a number, in place."""
    for _, groups in _groups(X):
        groups.mul_(factor)
    return X


def _groups(X: Tensor) -> Iterator[tuple[slice, Tensor]]:
    m = len(X)
    if X.numel() <= _SIZE:
        yield slice(m), X
        return
    step = max(1, _SIZE // X[0].numel())
    for first in range(0, m, step):
        which = slice(first, first + step)
        yield which, X[which]


def _rows(penalty: Penalty, groups: Tensor) -> tuple[Tensor, ...]:
    return split(groups) if penalty.accepts_blocks else (groups,)


def _sum(penalty: Penalty, groups: Tensor) -> Tensor:
    chunks = _rows(penalty, groups)
    return (
        penalty.value(groups) if len(chunks) == 1 else torch.stack([penalty.value(rows) for rows in chunks]).sum(dim=0)
    )
