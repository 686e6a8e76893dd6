r"""The block-diagonal kernel, for many small groups that are adjacent in memory.

A product of only a few columns leaves most of the processor's vector width idle. So this kernel forms one Gram matrix
of g adjacent groups, with g·n ≤ 16 columns, and discards its blocks off the diagonal: g times the flops in half the
time.
"""

import torch

from gramian.kernels import reference
from gramian.kernels.base import KernelSpec
from gramian.kernels.reference import Reference
from gramian.typing import GroupMatrices, Phi

__all__ = ["BlockDiagonal"]

_COLUMNS = 16


class BlockDiagonal(Reference):
    """Gram products of several groups as one product."""

    name = "block_diagonal"

    def unsupported_reason(self, problem: KernelSpec) -> str | None:
        _, _, n = problem.shape
        if n > _COLUMNS // 2:
            return f"it is for n of at most {_COLUMNS // 2}; n is {n}"
        if n == 0 or problem.strides[1] != n * problem.strides[2]:
            return "the groups are not adjacent in memory"
        return None

    def slower_reason(self, problem: KernelSpec) -> str | None:
        if problem.strides[0] == 1:
            return "batched products are faster where vectors are contiguous in memory"
        if problem.shape[1] < _COLUMNS:
            return f"there are fewer than {_COLUMNS} groups"
        return None

    def residual(self, phi: Phi) -> GroupMatrices:
        wide = phi.to(reference.compute_dtype(phi.dtype))
        _, m, n = wide.shape
        fold = _COLUMNS // n
        whole = m - m % fold
        F = wide[:, :whole].unflatten(1, (-1, fold)).flatten(2).permute(1, 0, 2)
        with reference.full_precision(F):
            Y = reference.half_gram(F).unflatten(2, (fold, n)).unflatten(1, (fold, n))
        X = wide.new_empty(m, n, n)
        H = Y.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        torch.add(H, H.mT, out=X[:whole].unflatten(0, (-1, fold)))
        X[:whole].diagonal(dim1=1, dim2=2).sub_(1)
        if whole < m:
            X[whole:] = reference.residual(wide[:, whole:])
        return X
