r"""The all-reduce kernel, for vectors that are sharded over processes: each process has some of the l coordinates.

PᵀP is the sum of the Gram matrices of the shards, and each process computes P·G for its shard alone. So one all-reduce
of m·n² numbers is the only communication.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gramian.kernels import dispatch, reference
from gramian.typing import GroupMatrices, Phi

__all__ = ["AllReduce", "all_reduce_over"]


class AllReduce(reference.Reference):
    """Gram products that are summed over a process group.

    Args:
        group: The process group whose members hold the shards.
    """

    name = "all_reduce"

    splits_groups = False

    def __init__(self, group: Any) -> None:
        self._group = group

    def residual(self, phi: Phi) -> GroupMatrices:
        from torch import distributed

        P = reference.group_matrices(phi)
        with reference.full_precision(P):
            H = reference.half_gram(P)
        # The order of the sum over processes differs between entries, so X is made symmetric after it.
        distributed.all_reduce(H, group=self._group)
        X = H + H.mT
        X.diagonal(dim1=1, dim2=2).sub_(1)
        return X

    def cross_gram(self, phi: Phi, Q: Tensor) -> Float[Tensor, "m k n"]:
        from torch import distributed

        Y = super().cross_gram(phi, Q).contiguous()
        distributed.all_reduce(Y, group=self._group)
        return Y

    def finite(self, phi: Phi) -> Bool[Tensor, " m"]:
        from torch import distributed

        finite = super().finite(phi).to(torch.int32)
        distributed.all_reduce(finite, op=distributed.ReduceOp.MIN, group=self._group)
        return finite.bool()


def all_reduce_over(group: Any) -> AbstractContextManager[None]:
    """Treat every Φ within a `with` block as a shard that holds some of the coordinates of its vectors.

    Args:
        group: The process group; all its members must make the same calls.
    """
    return dispatch.override(AllReduce(group))
