r"""The whole kernel, for groups of middling size: the X of a few groups at a time, turned into G in place.

Fresh memory costs almost as much as the products here, so nothing large is made but the gradient and one workspace
for X. From n = 512 on only the upper half of X is multiplied out, in four bands, and mirrored.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gramian.kernels import chunks, dense
from gramian.kernels.base import Kernel, Problem
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi

__all__ = ["Whole"]

_BANDS = 4
_LEAST_MIRRORED = 512
_WORKSPACE = 1 << 20  # numbers: 4 MiB in float32


class Whole(Kernel):
    """X whole, in place, a few groups at a time."""

    name = "whole"

    def loses(self, problem: Problem) -> str | None:
        return None if problem.device == "cpu" else "it waits for the device after every few groups"

    def residual(self, phi: Phi) -> GroupMatrices:
        P = dense.group_matrices(phi)
        with dense.full_precision(P):
            return _residual(P)

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        P = dense.group_matrices(phi)
        with dense.full_precision(P):
            return torch.cat([chunks.value(_residual(part), penalty.of_groups(which)) for which, part in _few(P)])

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        P = dense.group_matrices(phi)
        transposed = P.shape[2] <= dense.SMALL
        with dense.full_precision(P):
            if P.shape[0] * P.shape[2] ** 2 <= _WORKSPACE:
                values, grad = _products(P, penalty, 2 * beta, transposed)
            else:
                grad = torch.empty_like(P.mT if transposed else P, memory_format=torch.contiguous_format)
                parts = [
                    _products(part, penalty.of_groups(which), 2 * beta, transposed, grad[which])[0]
                    for which, part in _few(P)
                ]
                values = torch.cat(parts)
        result = (grad.mT if transposed else grad).permute(1, 0, 2)
        dense.lose_(result, values)
        if result.dtype != phi.dtype:
            result = result.to(phi.dtype)
        return values if beta == 1 else beta * values, result


def _products(
    P: Tensor,
    penalty: Penalty,
    scale: float,
    transposed: bool,  # noqa: FBT001
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Give μ(X) and scale·PG of a batch [m, l, n], or its transpose."""
    X = _residual(P)
    values = chunks.value(X, penalty)
    G = chunks.dual_(X, penalty)
    left, right = (G, P.mT) if transposed else (P, G)
    nothing = P.new_empty(()) if out is None else out
    return values, torch.baddbmm(nothing, left, right, beta=0, alpha=scale, out=out)


def _few(P: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Give a few groups at a time, at least one: as many as fill the workspace with their X."""
    m, _, n = P.shape
    step = max(1, _WORKSPACE // max(1, n * n))
    for first in range(0, max(1, m), step):
        which = slice(first, first + step)
        yield which, P[which]


def _residual(P: Tensor) -> GroupMatrices:
    """Form PᵀP − I of a batch [m, l, n], away from autocast."""
    X = _averaged(P) if P.shape[2] < _LEAST_MIRRORED else _mirrored(P)
    X.diagonal(dim1=1, dim2=2).sub_(1)
    return X


def _averaged(P: Tensor) -> GroupMatrices:
    H = dense.half_gram(P)
    return H + H.mT


def _mirrored(P: Tensor) -> GroupMatrices:
    m, _, n = P.shape
    gram = P.new_empty(m, n, n)
    width = math.ceil(n / _BANDS)
    for first in range(0, n, width):
        last = min(first + width, n)
        band = torch.bmm(P[:, :, first:last].mT, P[:, :, first:])
        dense.symmetrize_(band[:, :, : last - first])
        gram[:, first:last, first:] = band
        gram[:, last:, first:last] = band[:, :, last - first :].mT
    return gram
