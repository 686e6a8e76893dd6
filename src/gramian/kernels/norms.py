"""Cheap estimates of the spectral norms of symmetric matrices, with which the proximal rule limits its step."""

import torch
from torch import Tensor

from gramian.kernels import chunks
from gramian.kernels.reference import full_precision
from gramian.typing import GroupMatrices, GroupScalars

__all__ = ["NEAR", "POWER_STEPS", "SMALL", "StreamingNorm", "chirp", "gram_norm", "sample", "spectral_norm"]

NEAR = 0.1
"""The ‖X‖_F up to which a proximal step has w = 1: there ‖PᵀP‖₂ ≤ 1.1, and it descends if w is up to 20 % too low."""

SMALL = 16
POWER_STEPS = 2
_CHIRP = 0.731
_SAMPLED, _MOST_SAMPLED = 32, 128
_SAMPLE_STEPS = 4


def spectral_norm(M: GroupMatrices) -> GroupScalars:
    r"""Estimate ‖M‖₂ of symmetric matrices.

    The largest absolute row sum ‖M‖_∞ is an upper bound, within √n of the norm and exact as M tends to a multiple
    of I. Above n = 16 the estimate is the largest of three lower bounds: the largest entry, and two steps of power
    iteration from the heaviest column of M and from a fixed vector without structure. The column alone would miss an
    eigenvector that lies in another block of M.

    Args:
        M: Symmetric matrices, shape [m, n, n].

    Returns:
        One number for each matrix, shape [m]; NaN for a matrix that has a NaN.

    Cost:
        O(m·n²), against O(m·l·n²) for the Gram product.
    """
    if M.numel() == 0:
        return M.new_zeros(len(M))
    members = M.shape[-1]
    if members <= SMALL:
        return M.abs().sum(dim=-1).amax(dim=-1)
    # Column sums equal row sums by symmetry, and are several times as fast.
    sums, largest = M.new_zeros(M.shape[:2]), M.new_zeros(len(M))
    for rows in chunks.split(M):
        sizes = rows.abs()
        sums = sums + sizes.sum(dim=1)
        largest = torch.maximum(largest, sizes.amax(dim=(1, 2)))
    bound, heaviest = sums.max(dim=-1)
    tiny = torch.finfo(M.dtype).tiny
    # In units of the bound no square overflows; the squares of a norm would, from 1e19 on in float32.
    unit = bound.clamp_min(tiny)[:, None, None]
    column = torch.gather(M, 1, heaviest[:, None, None].expand(-1, 1, members)) / unit
    fixed = chirp(M, members)
    v: Tensor = torch.cat([column, fixed[None, None, :].expand(len(M), 1, -1)], dim=1)
    with full_precision(M):
        for _ in range(POWER_STEPS):
            v = torch.bmm(v / torch.linalg.vector_norm(v, dim=2, keepdim=True).clamp_min(tiny) / unit, M)
    power = torch.linalg.vector_norm(v, dim=2).amax(dim=1) * unit[:, 0, 0]
    return torch.minimum(bound, torch.maximum(power, largest))


def gram_norm(P: Tensor) -> Tensor:
    """Estimate ‖PᵀP‖₂ of one group from below, as `spectral_norm` does, without the matrix: O(l·n)."""
    squares = P.square().sum(dim=0)
    # No indexing by a tensor: it would wait for a device.
    largest, heaviest = squares.max(dim=0)
    unit = largest.clamp_min(torch.finfo(P.dtype).tiny)
    with full_precision(P):
        # Vectors are rows here and below: three to six times as fast as products of two columns.
        v = torch.stack([P.index_select(1, heaviest[None])[:, 0] @ P / unit, chirp(P, P.shape[1])])
        for _ in range(POWER_STEPS):
            v = _unit(v) @ P.mT @ P / unit
    return torch.maximum(torch.linalg.vector_norm(v, dim=1).amax() * unit, largest)


def sample(P: Tensor) -> Tensor:
    """Choose every 32nd column, at most about 128 columns, and that of the longest vector."""
    n = P.shape[1]
    even = torch.arange(0, n, max(_SAMPLED, n // _MOST_SAMPLED), device=P.device)
    return torch.cat([even, P.square().sum(dim=0).argmax()[None]])


class StreamingNorm:
    """Estimate ‖M‖₂ of a symmetric matrix from below, from the panels of its upper half, one after another.

    Args:
        columns: Some columns of M, [n, k]. The power step starts from their dominant combination.
    """

    def __init__(self, columns: Tensor) -> None:
        n, k = columns.shape
        tiny = torch.finfo(columns.dtype).tiny
        largest = columns.abs().amax()
        self._unit = torch.where(largest == 0, 1, largest)
        columns = columns / self._unit
        with full_precision(columns):
            v = chirp(columns, k)
            for _ in range(_SAMPLE_STEPS):
                v = columns.mT @ (columns @ (v / torch.linalg.vector_norm(v).clamp_min(tiny)))
            # In units of the largest entry no product overflows.
            self._v = _unit(torch.stack([columns @ v, chirp(columns, n)])) / self._unit
        self._product = torch.zeros_like(self._v)
        self._largest = columns.new_zeros(())

    def update(self, first: int, panel: Tensor) -> None:
        """Add the panel M[I, i:] of the block I whose first index is i = `first`."""
        last = first + len(panel)
        low, high = torch.aminmax(panel)
        self._largest = torch.maximum(self._largest, torch.maximum(high, -low))
        with full_precision(panel):
            self._product[:, first:last] += self._v[:, first:] @ panel.mT
            self._product[:, last:] += self._v[:, first:last] @ panel[:, last - first :]

    def norm(self) -> Tensor:
        """Return the estimate, after `update` got all panels."""
        power = torch.linalg.vector_norm(self._product, dim=1).amax() * self._unit
        return torch.maximum(power, self._largest)


def chirp(like: Tensor, size: int) -> Tensor:
    """Return a fixed vector without structure."""
    return torch.cos(_CHIRP * torch.arange(size, dtype=like.dtype, device=like.device).square())


def _unit(v: Tensor) -> Tensor:
    """Scale every row to length 1."""
    return v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
