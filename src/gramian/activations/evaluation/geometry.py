"""The shape of each group's codes: moments, effective dimension, principal plane, and circularity in this plane."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.activations.evaluation.encoded import EncodedSamples
from gramian.typing import GroupScalars

__all__ = ["CodeMoments", "CodePlanes", "circularity", "code_moments", "code_planes", "effective_dimension"]

_NUMBERS = 1 << 22
"""Numbers of intermediate results in memory."""


@dataclass(frozen=True, eq=False)
class CodeMoments:
    """Moments of the codes of each group over the samples in which it is active, in float64; 0 for silent groups.

    Attributes:
        mean: E[a_i].
        second: E[a_i a_iᵀ].
    """

    mean: Float[Tensor, "m n"]
    second: Float[Tensor, "m n n"]


@dataclass(frozen=True, eq=False)
class CodePlanes:
    """The plane that the codes of each group use most.

    Attributes:
        axes: Two orthonormal directions in the space of codes of each group, the one of larger power first; for groups
            of one direction the second one is 0.
        share: Fraction of the power of the codes that lies in the plane; 0 for a silent group.
        positions: Coordinates of each entry of the codes in the plane of its group.
    """

    axes: Float[Tensor, "m n 2"]
    share: GroupScalars
    positions: Float[Tensor, "entries 2"]


def code_moments(codes: EncodedSamples) -> CodeMoments:
    """Compute the moments of the codes of each group while it is active."""
    m, n = codes.n_groups, codes.values.shape[1]
    mean = torch.zeros(m, n, dtype=torch.float64)
    second = torch.zeros(m, n, n, dtype=torch.float64)
    for part in _parts(codes, n * n):
        values, group = codes.values[part].double(), codes.group[part]
        mean.index_add_(0, group, values)
        second.index_add_(0, group, values[:, :, None] * values[:, None])
    counts = codes.counts.clamp_min(1).double()
    return CodeMoments(mean / counts[:, None], second / counts[:, None, None])


def effective_dimension(second: Float[Tensor, "m n n"]) -> GroupScalars:
    """Compute the participation ratio (Σ_j λ_j)²/Σ_j λ_j² of the eigenvalues of each matrix; 0 for a matrix of zeros.

    It is n for equal eigenvalues, and 1 for a single one.

    Examples:
        >>> effective_dimension(torch.stack([torch.eye(3), torch.diag(torch.tensor([2.0, 0.0, 0.0]))])).tolist()
        [3.0, 1.0]
    """
    trace = second.diagonal(dim1=1, dim2=2).sum(dim=1)
    squares = second.square().sum(dim=(1, 2))
    return torch.where(squares > 0, trace.square() / squares, 0.0)


def code_planes(codes: EncodedSamples, moments: CodeMoments) -> CodePlanes:
    """Compute the first two eigenvectors of E[a_i a_iᵀ] of each group, and the codes in their plane.

    No mean is subtracted. The entry of largest modulus of each axis is positive.

    Cost:
        O(m·n³) flops, and two numbers for each entry of the codes.
    """
    m, n, _ = moments.second.shape
    power, directions = torch.linalg.eigh(moments.second)
    axes = directions[:, :, -2:].flip(-1)
    axes = torch.where(axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)) < 0, -axes, axes)
    if n == 1:
        axes = torch.cat([axes, torch.zeros(m, 1, 1, dtype=axes.dtype)], dim=2)
    trace = power.sum(dim=1)
    share = torch.where(trace > 0, power[:, -2:].sum(dim=1) / trace, 0.0)
    positions = torch.empty(len(codes.group), 2)
    narrow = axes.float()
    for part in _parts(codes, 2 * n):
        positions[part] = torch.einsum("en,enk->ek", codes.values[part], narrow[codes.group[part]])
    return CodePlanes(axes, share, positions)


def circularity(codes: EncodedSamples, planes: CodePlanes) -> GroupScalars:
    r"""Measure how much the codes of each group lie on a circle, from 0 to 1.

    It is the product of three numbers, each 1 for codes spread evenly over a circle about 0: how evenly directions θ in
    the principal plane are spread, 1 − max(|E e^{iθ}|, |E e^{2iθ}|), which is 0 on a line; the share of the power in
    the plane; and 1 less the relative standard deviation of the distance from 0 in the plane. A full disk has 0.65, a
    sphere 0.48, a line 0. Groups with fewer than three samples have 0.
    """
    counts = codes.counts
    x, y = planes.positions.double().unbind(dim=1)
    radius = torch.hypot(x, y)
    unit = torch.complex(x, y) / radius.clamp_min(1e-30)
    first, second = (_sums(power, codes.group, codes.n_groups) / counts.clamp_min(1) for power in (unit, unit**2))
    spread = 1 - torch.maximum(first.abs(), second.abs())
    mean = _sums(radius, codes.group, codes.n_groups) / counts.clamp_min(1)
    square = _sums(radius**2, codes.group, codes.n_groups) / counts.clamp_min(1)
    deviation = (square - mean**2).clamp_min(0).sqrt() / mean.clamp_min(1e-30)
    return torch.where(counts > 2, spread * planes.share * (1 - deviation), 0.0).clamp(0, 1)


def _sums(values: Tensor, group: Int[Tensor, " entries"], m: int) -> Tensor:
    return torch.zeros(m, dtype=values.dtype).index_add_(0, group, values)


def _parts(codes: EncodedSamples, numbers: int) -> Iterator[slice]:
    step = max(1, _NUMBERS // numbers)
    return (slice(first, first + step) for first in range(0, len(codes.group), step))
