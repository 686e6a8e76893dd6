r"""The panel kernel, for large groups: the upper half of X in panels, each used for both of its sides while it is hot.

X is symmetric. For a block I of b columns, the panel X[I, i:] is formed, G follows from it entry by entry, and P·G
receives both P_I G[I, i:] and P[:, i+b:] G[I, i+b:]ᵀ. That is 3·l·n² flops instead of the 4·l·n² of two whole products,
and n × b numbers instead of n × n.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gramian.kernels import chunks, dense
from gramian.kernels.base import Kernel, Problem
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi

__all__ = ["Panel", "blocks", "residual_columns", "stream", "value", "width"]

_LEAST_MEMBERS = 1024
_WORKSPACE = 1 << 23  # numbers: 32 MiB in float32
_NARROWEST, _WIDEST = 256, 1024


class Panel(Kernel):
    """Half of X, a panel at a time."""

    name = "panel"

    def cannot(self, problem: Problem) -> str | None:
        if not problem.entrywise:
            return "the penalty is not a sum over the entries of X"
        return super().cannot(problem)

    def loses(self, problem: Problem) -> str | None:
        if problem.shape[2] < _LEAST_MEMBERS:
            return f"below n = {_LEAST_MEMBERS} X is small enough to be held whole"
        return None

    def residual(self, phi: Phi) -> GroupMatrices:
        wide = phi.to(dense.compute_dtype(phi.dtype))
        _, m, n = wide.shape
        whole = wide.new_empty(m, n, n)
        for P, X in zip(wide.unbind(1), whole, strict=True):
            for first, last in blocks(n):
                panel = X[first:last, first:]
                with dense.full_precision(P):
                    torch.mm(P[:, first:last].mT, P[:, first:], out=panel)
                dense.symmetrize_(panel[:, : last - first])
                X[last:, first:last].copy_(panel[:, last - first :].mT)
            X.diagonal().sub_(1)
        return whole

    def add_apply_(self, phi: Phi, M: GroupMatrices) -> None:
        rows = max(_NARROWEST, _WORKSPACE // max(1, phi.shape[2]))
        for P, factor in zip(phi.unbind(1), M, strict=True):
            for part in P.split(rows):
                with dense.full_precision(P):
                    # Never part.addmm_(part, factor): torch multiplies into what it still reads, and is silently wrong.
                    part.add_(torch.mm(part, factor))

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        wide = phi.to(dense.compute_dtype(phi.dtype))
        values = wide.new_zeros(wide.shape[1])
        for i, P in enumerate(wide.unbind(1)):
            for _, X in _panels(P):
                values[i] += value(X, penalty)
        return values

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        wide = phi.to(dense.compute_dtype(phi.dtype))
        grad = torch.empty_like(wide, memory_format=torch.contiguous_format)
        values = wide.new_zeros(wide.shape[1])
        for i, (P, D) in enumerate(zip(wide.unbind(1), grad.unbind(1), strict=True)):

            def dual(_: int, X: Tensor, i: int = i) -> Tensor:
                values[i] += value(X, penalty)
                return chunks.dual_(X[None], penalty)[0]

            stream(P, D, dual, 2 * beta)
        dense.lose_(grad, values)  # the sign of a NaN is 0, and would hide it
        return beta * values, grad.to(phi.dtype)


def width(n: int) -> int:
    """Give the number of columns of a panel: about a quarter of n, as far as the workspace reaches, evenly."""
    most = max(1, min(max(_NARROWEST, min(_WIDEST, n // 4)), _WORKSPACE // max(1, n)))
    return math.ceil(n / math.ceil(n / most)) if n else 1


def blocks(n: int) -> Iterator[tuple[int, int]]:
    """Give the first index and the last of every block of columns."""
    b = width(n)
    for first in range(0, n, b):
        yield first, min(first + b, n)


def _panels(P: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Give the first column of each block I, and X[I, i:]: in one workspace, that the next one overwrites."""
    n = P.shape[1]
    workspace = P.new_empty(width(n) * n)
    for first, last in blocks(n):
        X = workspace[: (last - first) * (n - first)].view(last - first, n - first)
        with dense.full_precision(P):
            torch.mm(P[:, first:last].mT, P[:, first:], out=X)
        dense.symmetrize_(X[:, : last - first])
        X.diagonal().sub_(1)
        yield first, X


def value(X: Tensor, penalty: Penalty) -> Tensor:
    """Sum the penalty over X[I, I], and twice over what is right of it, which stands below it too."""
    b = X.shape[0]
    left, right = X[None, :, :b], X[None, :, b:]
    return (chunks.value(left, penalty) + 2 * chunks.value(right, penalty))[0]


def residual_columns(P: Tensor, columns: Tensor) -> Tensor:
    """Form some columns of PᵀP − I, [n, k]."""
    with dense.full_precision(P):
        X = torch.mm(P.mT, P[:, columns])
    X[columns, torch.arange(len(columns), device=P.device)] -= 1
    return X


def stream(P: Tensor, D: Tensor, factor: Callable[[int, Tensor], Tensor], scale: float) -> None:
    """Write scale·PM into D, for a symmetric M made of X entry by entry.

    Args:
        P: One group, [l, n].
        D: Where its product goes, [l, n], no part of P.
        factor: From the first index of a block I and X[I, i:], which it may overwrite, to M[I, i:].
        scale: A number.
    """
    for first, X in _panels(P):
        last = first + X.shape[0]
        M = factor(first, X)
        with dense.full_precision(P):
            # The first panel begins every column of D, so that nothing has to be filled with zeros before.
            torch.addmm(D[:, first:], P[:, first:last], M, beta=int(first > 0), alpha=scale, out=D[:, first:])
            if last < P.shape[1]:
                mine = D[:, first:last]
                torch.addmm(mine, P[:, last:], M[:, last - first :].mT, alpha=scale, out=mine)
