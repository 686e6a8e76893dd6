r"""The batched kernel, for groups of medium size: it forms X for some groups at a time and overwrites it with G.

New memory costs almost as much as the products here, so the only large allocations are the gradient and one workspace
for X. From n = 512 on, only the upper half of X is computed, in four bands, and then mirrored.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gramian.kernels import chunks, reference
from gramian.kernels.base import KernelSpec
from gramian.kernels.reference import Reference
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi

__all__ = ["Batched"]

_BANDS = 4
_LEAST_MIRRORED = 512
_LEAST_DIRECT = 64
"""Smallest n for which a product that is written in the order [l, m, n] takes less time than a copy of the result."""

_WORKSPACE = 1 << 20  # entries: 4 MiB in float32


class Batched(Reference):
    """Two batched products for some groups at a time, with X overwritten by G."""

    name = "batched"

    def slower_reason(self, problem: KernelSpec) -> str | None:
        return None if problem.device == "cpu" else "it waits for the device after each batch of groups"

    def residual(self, phi: Phi) -> GroupMatrices:
        P = reference.group_matrices(phi)
        with reference.full_precision(P):
            return _residual(P)

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        P = reference.group_matrices(phi)
        with reference.full_precision(P):
            return torch.cat(
                [chunks.value(_residual(part), penalty.select_groups(which)) for which, part in _group_batches(P)]
            )

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        P = reference.group_matrices(phi)
        transposed = P.shape[2] <= reference.SMALL
        if P.shape[0] * P.shape[2] ** 2 <= _WORKSPACE:
            with reference.full_precision(P):
                values, grad = _products(P, penalty, 2 * beta, transposed)
        else:
            grad = torch.empty_like(P.mT if transposed else P, memory_format=torch.contiguous_format)
            values = _write_products(P, penalty, 2 * beta, transposed, grad)
        result = (grad.mT if transposed else grad).permute(1, 0, 2)
        reference.invalidate_groups_(result, values)
        if result.dtype != phi.dtype:
            result = result.to(phi.dtype)
        return values if beta == 1 else beta * values, result

    def value_and_grad_into(self, out: Phi, phi: Phi, penalty: Penalty, beta: float) -> GroupScalars:
        P = reference.group_matrices(phi)
        if P.shape[2] < _LEAST_DIRECT or out.dtype != P.dtype:
            return super().value_and_grad_into(out, phi, penalty, beta)
        values = _write_products(P, penalty, 2 * beta, False, out.permute(1, 0, 2))
        reference.invalidate_groups_(out, values)
        return values if beta == 1 else beta * values


def _write_products(
    P: Tensor,
    penalty: Penalty,
    scale: float,
    transposed: bool,  # noqa: FBT001
    out: Tensor,
) -> Tensor:
    """Write scale·PG, or its transpose, to `out`, for some groups at a time; return μ(X)."""
    with reference.full_precision(P):
        parts = [
            _products(part, penalty.select_groups(which), scale, transposed, out[which])[0]
            for which, part in _group_batches(P)
        ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _products(
    P: Tensor,
    penalty: Penalty,
    scale: float,
    transposed: bool,  # noqa: FBT001
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute μ(X) and scale·PG, or its transpose, of a batch [m, l, n]."""
    X = _residual(P)
    values = chunks.value(X, penalty)
    G = chunks.subgradient_(X, penalty)
    left, right = (G, P.mT) if transposed else (P, G)
    unused = P.new_empty(()) if out is None else out
    return values, torch.baddbmm(unused, left, right, beta=0, alpha=scale, out=out)


def _group_batches(P: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Iterate over batches of groups: as many as fill the workspace with their X, at least one."""
    m, _, n = P.shape
    step = max(1, _WORKSPACE // max(1, n * n))
    for first in range(0, max(1, m), step):
        which = slice(first, first + step)
        yield which, P[which]


def _residual(P: Tensor) -> GroupMatrices:
    """Form PᵀP − I of a batch [m, l, n]; the caller switches autocast off."""
    X = _averaged(P) if P.shape[2] < _LEAST_MIRRORED else _mirrored(P)
    X.diagonal(dim1=1, dim2=2).sub_(1)
    return X


def _averaged(P: Tensor) -> GroupMatrices:
    H = reference.half_gram(P)
    return H + H.mT


def _mirrored(P: Tensor) -> GroupMatrices:
    m, _, n = P.shape
    gram = P.new_empty(m, n, n)
    width = math.ceil(n / _BANDS)
    for first in range(0, n, width):
        last = min(first + width, n)
        band = torch.bmm(P[:, :, first:last].mT, P[:, :, first:])
        reference.symmetrize_(band[:, :, : last - first])
        gram[:, first:last, first:] = band
        gram[:, last:, first:last] = band[:, :, last - first :].mT
    return gram
