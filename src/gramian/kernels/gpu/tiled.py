r"""The tiled kernel, for large groups on a GPU: the penalty inside a symmetric Gram product.

It computes G tile by tile on and above the diagonal: a tile of X is summed in registers, and only its G is written to
memory, with its mirror image. X is never stored. The signs of l1 are exact in 16 bits, so P·G runs at the rate of
16-bit products, and in float32 at that of three. If G is too large for memory, it is computed in strips, each
multiplied from both sides, as a panel is.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.base import FusedStep, KernelSpec
from gramian.kernels.cpu.panel import Panel
from gramian.kernels.gpu import epilogues
from gramian.kernels.gpu.epilogues import Epilogue
from gramian.kernels.gpu.launching import or_reference
from gramian.kernels.gpu.products import Products, invalidate_, scaled_product
from gramian.kernels.gpu.signs import sign_product
from gramian.kernels.gpu.symmetric import symmetric_product
from gramian.penalties import Penalty
from gramian.typing import GroupScalars, Phi, Scalar

__all__ = ["Tiled"]

_LEAST_MEMBERS = 1024
_ROOM = 1 << 26
"""Entries of G that are held at a time: 128 MiB in 16 bits."""


class Tiled(Products, Panel):
    """The upper half of G in one launch for all groups; X is never written to memory."""

    name = "tiled"

    def unsupported_reason(self, problem: KernelSpec) -> str | None:
        if not problem.epilogue:
            return "its device code does not implement the penalty"
        return super().unsupported_reason(problem)

    def slower_reason(self, problem: KernelSpec) -> str | None:
        if problem.shape[2] < _LEAST_MEMBERS:
            return f"below n = {_LEAST_MEMBERS} the library's whole product is as fast as half of it in device code"
        return epilogues.slower_reason(problem.device, problem.dtype)

    @or_reference
    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        epilogue = epilogues.epilogue(penalty)
        if epilogue is None:
            return Panel.value(self, phi, penalty)
        values = phi.new_empty(phi.shape[1], dtype=reference.compute_dtype(phi.dtype))
        for which in _parts(phi):
            for first, last in _strips(phi):
                _strip(phi[:, which], epilogue, first, last, values[which])
        return values

    @or_reference
    def value_and_grad_into(self, out: Phi, phi: Phi, penalty: Penalty, beta: float) -> GroupScalars:
        epilogue = epilogues.epilogue(penalty)
        if epilogue is None:
            return super().value_and_grad_into(out, phi, penalty, beta)
        wide = reference.compute_dtype(phi.dtype)
        values = phi.new_empty(phi.shape[1], dtype=wide)
        strips = list(_strips(phi))
        for which in _parts(phi):
            P = phi[:, which]
            if len(strips) == 1:
                scaled_product(P, _strip(P, epilogue, *strips[0], values[which]), 2 * beta, out[:, which])
                continue
            D = P.new_empty(P.shape, dtype=wide)
            for first, last in strips:
                G = _strip(P, epilogue, first, last, values[which])
                _add_product(D[:, :, first:], P[:, :, first:last], G, 2 * beta, add=first > 0)
                if last < phi.shape[2]:
                    _add_product(D[:, :, first:last], P[:, :, last:], G[:, :, last - first :].mT, 2 * beta, add=True)
            out[:, which].copy_(D.add_(0 * values[which, None]))
        return values if beta == 1 else beta * values

    def proximal_step(
        self, phi: Phi, penalty: Penalty, tau: float, *, in_place: bool, rate: Scalar | None = None
    ) -> FusedStep | None:
        if phi.shape[2] > phi.shape[0]:
            return None  # X is larger than Φ, and streamed
        return super().proximal_step(phi, penalty, tau, in_place=in_place, rate=rate)


def _strips(phi: Phi) -> Iterator[tuple[int, int]]:
    """Iterate over the blocks of columns whose G is held at a time: all of them if G is small enough."""
    n = phi.shape[2]
    # Multiples of the largest tile, so that rows of a strip are as aligned as those of Φ.
    width = n if n * n <= _ROOM else max(1, _ROOM // (n * 128)) * 128
    for first in range(0, n, width):
        yield first, min(first + width, n)


def _parts(phi: Phi) -> Iterator[slice]:
    """Iterate over the groups whose G is held at a time."""
    _, m, n = phi.shape
    step = max(1, _ROOM // (n * n))
    for first in range(0, m, step):
        yield slice(first, first + step)


def _strip(phi: Phi, epilogue: Epilogue, first: int, last: int, values: GroupScalars) -> Tensor:
    """Compute G[I, i:] of every group for the block I from `first` to `last`, and add its part of μ(X)."""
    G, sums = symmetric_product(phi, epilogue, first, last)
    invalidate_(G, sums, values, add=first > 0)
    return G


def _add_product(D: Tensor, A: Tensor, B: Tensor, scale: float, *, add: bool) -> None:
    """Write scale·AB to D[l, m, n], or add it, in the dtype of D."""
    if B.dtype == torch.bfloat16 and A.dtype == torch.float32:
        sign_product(A, B, scale, D, add=add)
        return
    left, right, target = (each.to(D.dtype) for each in (A.permute(1, 0, 2), B, D.permute(1, 0, 2)))
    with reference.full_precision(D):
        torch.baddbmm(target, left, right, beta=int(add), alpha=scale, out=target)
