"""The entry-wise work on large matrices, a few rows at a time: what is made on the way stays in the cache.

For a penalty that is not a sum over entries the whole matrix is the chunk.
"""

import torch
from torch import Tensor

from gramian.penalties import ElementwisePenalty, Penalty

__all__ = ["dual_", "shrink_", "split", "value"]

_NUMBERS = 1 << 18


def split(X: Tensor) -> tuple[Tensor, ...]:
    """Split [..., rows, columns] along its rows into chunks of about 2¹⁸ numbers; a small one stays whole."""
    row = X.numel() // max(1, X.shape[-2])
    return X.split(max(1, _NUMBERS // max(1, row)), dim=-2) if X.numel() > _NUMBERS else (X,)


def value(X: Tensor, penalty: Penalty) -> Tensor:
    """Give μ(X) of matrices."""
    if not isinstance(penalty, ElementwisePenalty):
        return penalty.value(X)
    return torch.stack([penalty.value(rows) for rows in split(X)]).sum(dim=0)


def dual_(X: Tensor, penalty: Penalty) -> None:
    """Replace X by G(X)."""
    for rows in split(X) if isinstance(penalty, ElementwisePenalty) else (X,):
        rows.copy_(penalty.dual(rows))


def shrink_(X: Tensor, penalty: Penalty, tau: Tensor) -> None:
    """Replace X by C_τ(X)."""
    for rows in split(X) if isinstance(penalty, ElementwisePenalty) else (X,):
        rows.copy_(penalty.shrink(rows, tau))
