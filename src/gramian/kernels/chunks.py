"""The entry-wise work on matrices [m, rows, columns], a piece at a time: what is made on the way stays in the cache.

A penalty that is not a sum over entries gets whole matrices.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gramian.penalties import Penalty

__all__ = ["dual_", "shrink_", "split", "value"]

_NUMBERS = 1 << 18


def split(X: Tensor) -> tuple[Tensor, ...]:
    """Split along the rows into pieces of about 2¹⁸ numbers; a small one stays whole."""
    row = X.numel() // max(1, X.shape[-2])
    return X.split(max(1, _NUMBERS // max(1, row)), dim=-2) if X.numel() > _NUMBERS else (X,)


def value(X: Tensor, penalty: Penalty) -> Tensor:
    """Give μ(X) of each matrix."""
    if X.numel() <= _NUMBERS:
        return penalty.value(X)
    values = [_total(penalty.of_groups(which), groups) for which, groups in _groups(X)]
    return values[0] if len(values) == 1 else torch.cat(values)


def dual_(X: Tensor, penalty: Penalty) -> Tensor:
    """Give G(X), for an X that is not needed any more: a large one becomes it in place."""
    if X.numel() <= _NUMBERS:
        return penalty.dual(X)
    for which, groups in _groups(X):
        mine = penalty.of_groups(which)
        for rows in _rows(mine, groups):
            rows.copy_(mine.dual(rows))
    return X


def shrink_(X: Tensor, penalty: Penalty, tau: Tensor) -> Tensor:
    """Give C_τ(X) for a τ of shape [m, 1, 1] or [], as `dual_` does G."""
    if X.numel() <= _NUMBERS:
        return penalty.shrink(X, tau)
    for which, groups in _groups(X):
        mine = penalty.of_groups(which)
        for rows in _rows(mine, groups):
            rows.copy_(mine.shrink(rows, tau[which] if tau.ndim else tau))
    return X


def _groups(X: Tensor) -> Iterator[tuple[slice, Tensor]]:
    m = len(X)
    if X.numel() <= _NUMBERS:
        yield slice(m), X
        return
    step = max(1, _NUMBERS // X[0].numel())
    for first in range(0, m, step):
        which = slice(first, first + step)
        yield which, X[which]


def _rows(penalty: Penalty, groups: Tensor) -> tuple[Tensor, ...]:
    return split(groups) if penalty.entrywise else (groups,)


def _total(penalty: Penalty, groups: Tensor) -> Tensor:
    rows = _rows(penalty, groups)
    return penalty.value(groups) if len(rows) == 1 else torch.stack([penalty.value(each) for each in rows]).sum(dim=0)
