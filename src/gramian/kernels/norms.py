"""Spectral norms of the small symmetric matrices, cheaply: the scale guard of the proximal rule."""

import torch
from torch import Tensor

from gramian.kernels import chunks
from gramian.kernels.dense import full_precision
from gramian.typing import GroupMatrices, GroupScalars

__all__ = ["spectral_norm"]

_SMALL = 16
_POWER_STEPS = 2
_CHIRP = 0.731


def spectral_norm(M: GroupMatrices) -> GroupScalars:
    r"""Estimate ‖M‖₂ of symmetric matrices.

    The largest absolute row sum ‖M‖_∞ is an upper bound, within √n of the norm and exact as M tends to a multiple
    of I. Above n = 16 it is lowered to the best of three lower bounds: the largest entry, and two steps of power
    iteration from M's heaviest column and from a fixed vector without structure. The column alone would miss what
    another block of M hides from it.

    Args:
        M: Symmetric matrices, shape [m, n, n].

    Returns:
        One number for each matrix, shape [m]; NaN where M holds one.

    Cost:
        O(m·n²), against O(m·l·n²) for the Gram product.
    """
    if M.numel() == 0:
        return M.new_zeros(len(M))
    members = M.shape[-1]
    if members <= _SMALL:
        return M.abs().sum(dim=-1).amax(dim=-1)
    # All by rows from the left, which by symmetry is the same, and several times as fast.
    sums, largest = M.new_zeros(M.shape[:2]), M.new_zeros(len(M))
    for rows in chunks.split(M):
        sizes = rows.abs()
        sums = sums + sizes.sum(dim=1)
        largest = torch.maximum(largest, sizes.amax(dim=(1, 2)))
    bound, heaviest = sums.max(dim=-1)
    tiny = torch.finfo(M.dtype).tiny
    # In units of the bound nothing overflows: the squares of a norm would, from 1e19 in float32.
    unit = bound.clamp_min(tiny)[:, None, None]
    column = torch.gather(M, 1, heaviest[:, None, None].expand(-1, 1, members)) / unit
    chirp = torch.cos(_CHIRP * torch.arange(members, dtype=M.dtype, device=M.device).square())
    v: Tensor = torch.cat([column, chirp[None, None, :].expand(len(M), 1, -1)], dim=1)
    with full_precision(M):
        for _ in range(_POWER_STEPS):
            v = torch.bmm(v / torch.linalg.vector_norm(v, dim=2, keepdim=True).clamp_min(tiny) / unit, M)
    power = torch.linalg.vector_norm(v, dim=2).amax(dim=1) * unit[:, 0, 0]
    return torch.minimum(bound, torch.maximum(power, largest))
