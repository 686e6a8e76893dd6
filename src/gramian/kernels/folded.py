r"""The folded kernel, for many small groups whose vectors lie side by side in memory.

A product of a few columns leaves most of the processor's width idle. So the Gram matrices of g neighbouring groups are
formed as one, of g·n ≤ 16 columns, and its blocks off the diagonal are thrown away: g times the flops, in half of
the time.
"""

import torch

from gramian.kernels import dense
from gramian.kernels.base import Kernel, Problem
from gramian.typing import GroupMatrices, Phi

__all__ = ["Folded"]

_COLUMNS = 16


class Folded(Kernel):
    """Gram products of several groups at once."""

    name = "folded"

    def cannot(self, problem: Problem) -> str | None:
        _, _, n = problem.shape
        if n > _COLUMNS // 2:
            return f"two groups fold into at most {_COLUMNS} columns; n is {n}"
        if n == 0 or problem.strides[1] != n * problem.strides[2]:
            return "the groups are not neighbours in memory"
        return super().cannot(problem)

    def loses(self, problem: Problem) -> str | None:
        if problem.strides[0] == 1:
            return "vectors that are contiguous in memory need no folding"
        if problem.shape[1] < _COLUMNS:
            return "there are few groups"
        return None

    def residual(self, phi: Phi) -> GroupMatrices:
        wide = phi.to(dense.compute_dtype(phi.dtype))
        _, m, n = wide.shape
        fold = _COLUMNS // n
        whole = m - m % fold
        F = wide[:, :whole].unflatten(1, (-1, fold)).flatten(2).permute(1, 0, 2)
        with dense.full_precision(F):
            Y = dense.half_gram(F).unflatten(2, (fold, n)).unflatten(1, (fold, n))
        X = wide.new_empty(m, n, n)
        H = Y.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        torch.add(H, H.mT, out=X[:whole].unflatten(0, (-1, fold)))
        X[:whole].diagonal(dim1=1, dim2=2).sub_(1)
        if whole < m:
            X[whole:] = dense.residual(wide[:, whole:])
        return X
