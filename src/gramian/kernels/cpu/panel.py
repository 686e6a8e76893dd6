r"""The panel kernel, for large groups: it forms only the upper half of X, panel by panel, and uses each panel twice.

X is symmetric. For a block I of b columns with first index i, the kernel forms the panel X[I, i:], computes G[I, i:]
entry by entry, and adds both P_I G[I, i:] and P[:, i+b:] G[I, i+b:]ᵀ to P·G. That takes 3·l·n² flops instead of the
4·l·n² of two whole products, and n × b numbers of memory instead of n × n.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gramian.kernels import chunks, reference
from gramian.kernels.base import KernelSpec
from gramian.kernels.reference import Reference
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi

__all__ = ["Panel", "blocks", "width"]

_LEAST_MEMBERS = 1024
_WORKSPACE = 1 << 23  # entries: 32 MiB in float32
_NARROWEST, _WIDEST = 256, 1024


class Panel(Reference):
    """The upper half of X, panel by panel."""

    name = "panel"

    streams_residual = True

    def unsupported_reason(self, problem: KernelSpec) -> str | None:
        if not problem.accepts_blocks:
            return "the penalty is not a sum over the entries of X"
        return None

    def slower_reason(self, problem: KernelSpec) -> str | None:
        if problem.shape[2] < _LEAST_MEMBERS:
            return f"below n = {_LEAST_MEMBERS} X is small enough to be held as a whole"
        return None

    def residual(self, phi: Phi) -> GroupMatrices:
        wide = phi.to(reference.compute_dtype(phi.dtype))
        _, m, n = wide.shape
        whole = wide.new_empty(m, n, n)
        for P, X in zip(wide.unbind(1), whole, strict=True):
            for first, last in blocks(n):
                panel = X[first:last, first:]
                with reference.full_precision(P):
                    torch.mm(P[:, first:last].mT, P[:, first:], out=panel)
                reference.symmetrize_(panel[:, : last - first])
                X[last:, first:last].copy_(panel[:, last - first :].mT)
            X.diagonal().sub_(1)
        return whole

    def add_apply_(self, phi: Phi, M: GroupMatrices) -> None:
        rows = max(_NARROWEST, _WORKSPACE // max(1, phi.shape[2]))
        for P, factor in zip(phi.unbind(1), M, strict=True):
            for part in P.split(rows):
                with reference.full_precision(P):
                    # Not part.addmm_(part, factor): torch overwrites `part` while it reads it, and the result is wrong.
                    part.add_(torch.mm(part, factor))

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        wide = phi.to(reference.compute_dtype(phi.dtype))
        values = wide.new_zeros(wide.shape[1])
        for i, P in enumerate(wide.unbind(1)):
            for _, X in _panels(P):
                values[i] += _panel_value(X, penalty)
        return values

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        wide = phi.to(reference.compute_dtype(phi.dtype))
        grad = torch.empty_like(wide, memory_format=torch.contiguous_format)
        values = wide.new_zeros(wide.shape[1])
        for i, (P, D) in enumerate(zip(wide.unbind(1), grad.unbind(1), strict=True)):
            values[i] = self.stream(P, D, penalty, lambda _, X: chunks.subgradient_(X[None], penalty)[0], 2 * beta)
        reference.invalidate_groups_(grad, values)  # the sign of a NaN is 0, so the product may hide it
        return beta * values, grad.to(phi.dtype)

    def residual_columns(self, P: Tensor, columns: Tensor) -> Tensor:
        with reference.full_precision(P):
            X = torch.mm(P.mT, P[:, columns])
        X[columns, torch.arange(len(columns), device=P.device)] -= 1
        return X

    def stream(
        self, P: Tensor, out: Tensor, penalty: Penalty, factor: Callable[[int, Tensor], Tensor], scale: float
    ) -> Tensor:
        value = P.new_zeros(())
        for first, X in _panels(P):
            last = first + X.shape[0]
            value += _panel_value(X, penalty)
            M = factor(first, X)
            with reference.full_precision(P):
                # The first panel overwrites every column of `out`, which so needs no zeros before.
                right = out[:, first:]
                torch.addmm(right, P[:, first:last], M, beta=int(first > 0), alpha=scale, out=right)
                if last < P.shape[1]:
                    block = out[:, first:last]
                    torch.addmm(block, P[:, last:], M[:, last - first :].mT, alpha=scale, out=block)
        return value


def width(n: int) -> int:
    """Return the width of a panel: about a quarter of n, limited by the workspace, with panels of equal width."""
    most = max(1, min(max(_NARROWEST, min(_WIDEST, n // 4)), _WORKSPACE // max(1, n)))
    return math.ceil(n / math.ceil(n / most)) if n else 1


def blocks(n: int) -> Iterator[tuple[int, int]]:
    """Iterate over blocks of columns: the first index of each, and the index after its last."""
    b = width(n)
    for first in range(0, n, b):
        yield first, min(first + b, n)


def _panels(P: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Iterate over blocks I: the first index i and X[I, i:], in a workspace that the next panel overwrites."""
    n = P.shape[1]
    workspace = P.new_empty(width(n) * n)
    for first, last in blocks(n):
        X = workspace[: (last - first) * (n - first)].view(last - first, n - first)
        with reference.full_precision(P):
            torch.mm(P[:, first:last].mT, P[:, first:], out=X)
        reference.symmetrize_(X[:, : last - first])
        X.diagonal().sub_(1)
        yield first, X


def _panel_value(X: Tensor, penalty: Penalty) -> Tensor:
    """Sum the penalty over X[I, I], and twice over the columns to its right, which X also has below the diagonal."""
    b = X.shape[0]
    diagonal, right = X[None, :, :b], X[None, :, b:]
    return (chunks.value(diagonal, penalty) + 2 * chunks.value(right, penalty))[0]
