"""Spectral norms of the small symmetric matrices, cheaply: the scale guard of the proximal rule."""

import torch
from torch import Tensor

from gramian.kernels.dense import full_precision
from gramian.typing import GroupMatrices, GroupScalars

__all__ = ["spectral_norm"]

_SMALL = 16
_POWER_STEPS = 2


def spectral_norm(M: GroupMatrices) -> GroupScalars:
    r"""Estimate ‖M‖₂ of symmetric matrices.

    The largest absolute row sum ‖M‖_∞ is an upper bound, within √n of the norm and exact as M tends to a multiple
    of I. Above n = 16 it is lowered to two steps of power iteration from M's heaviest column, which cannot be
    orthogonal to the leading eigenvector's image: the estimate is then at least ‖M‖_∞/√n and at most the norm.

    Args:
        M: Symmetric matrices, shape [m, n, n].

    Returns:
        One number for each matrix, shape [m]; NaN where M holds one.

    Cost:
        O(m·n²), against O(m·l·n²) for the Gram product.
    """
    row_sums = M.abs().sum(dim=-1)
    bound, heaviest = row_sums.max(dim=-1)
    members = M.shape[-1]
    if members <= _SMALL:
        return bound
    column = heaviest[:, None, None].expand(-1, members, 1)
    v: Tensor = torch.gather(M, 2, column)
    with full_precision(M):
        for _ in range(_POWER_STEPS):
            v = torch.bmm(M, v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(torch.finfo(M.dtype).tiny))
    return torch.minimum(bound, torch.linalg.vector_norm(v[..., 0], dim=-1))
