"""The entry-wise work on matrices [m, rows, columns], a piece at a time: what is made on the way stays in the cache.

A penalty that is not a sum over entries gets whole matrices.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gramian.penalties import Penalty

__all__ = ["NUMBERS", "SERIAL", "dual_", "frobenius", "scale_", "shrink_", "split", "value"]

NUMBERS = 1 << 18
"""Numbers of a piece, of which a few copies stay in the cache."""

SERIAL = 1 << 14
"""Numbers of a piece on which torch works in one thread. From there on it wakes others, which then spin for
milliseconds, and hold up whatever else the processor should do meanwhile."""


def split(X: Tensor, numbers: int = NUMBERS) -> tuple[Tensor, ...]:
    """Split along the rows into pieces of about as many numbers; a small one stays whole."""
    row = X.numel() // max(1, X.shape[-2])
    return X.split(max(1, numbers // max(1, row)), dim=-2) if X.numel() > numbers else (X,)


def value(X: Tensor, penalty: Penalty, numbers: int = NUMBERS) -> Tensor:
    """Give μ(X) of each matrix."""
    if X.numel() <= numbers:
        return penalty.value(X)
    values = [_total(penalty.of_groups(which), groups, numbers) for which, groups in _groups(X, numbers)]
    return values[0] if len(values) == 1 else torch.cat(values)


def dual_(X: Tensor, penalty: Penalty, numbers: int = NUMBERS) -> Tensor:
    """Give G(X), for an X that is not needed any more: a large one becomes it in place."""
    if X.numel() <= numbers:
        return penalty.dual(X)
    for which, groups in _groups(X, numbers):
        mine = penalty.of_groups(which)
        for rows in _rows(mine, groups, numbers):
            rows.copy_(mine.dual(rows))
    return X


def shrink_(X: Tensor, penalty: Penalty, tau: Tensor, numbers: int = NUMBERS) -> Tensor:
    """Give C_τ(X) for a τ of shape [m, 1, 1] or [], as `dual_` does G."""
    if X.numel() <= numbers:
        return penalty.shrink(X, tau)
    for which, groups in _groups(X, numbers):
        mine = penalty.of_groups(which)
        for rows in _rows(mine, groups, numbers):
            rows.copy_(mine.shrink(rows, tau[which] if tau.ndim else tau))
    return X


def frobenius(X: Tensor, numbers: int = NUMBERS) -> Tensor:
    """Give ‖X‖_F of each matrix."""
    norms = [torch.linalg.vector_norm(groups, dim=(1, 2)) for _, groups in _groups(X, numbers)]
    return norms[0] if len(norms) == 1 else torch.cat(norms)


def scale_(X: Tensor, factor: float, numbers: int = NUMBERS) -> Tensor:
    """Multiply by a number, in place."""
    for _, groups in _groups(X, numbers):
        groups.mul_(factor)
    return X


def _groups(X: Tensor, numbers: int) -> Iterator[tuple[slice, Tensor]]:
    m = len(X)
    if X.numel() <= numbers:
        yield slice(m), X
        return
    step = max(1, numbers // X[0].numel())
    for first in range(0, m, step):
        which = slice(first, first + step)
        yield which, X[which]


def _rows(penalty: Penalty, groups: Tensor, numbers: int) -> tuple[Tensor, ...]:
    return split(groups, numbers) if penalty.entrywise else (groups,)


def _total(penalty: Penalty, groups: Tensor, numbers: int) -> Tensor:
    rows = _rows(penalty, groups, numbers)
    return penalty.value(groups) if len(rows) == 1 else torch.stack([penalty.value(each) for each in rows]).sum(dim=0)
