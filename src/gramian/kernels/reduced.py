r"""The reduced kernel, for vectors that are spread over processes: each holds some of the l coordinates of all of them.

PᵀP is the sum of the Gram matrices of the parts, and P·G is made of each part by itself. So m·n² numbers are added up
over the processes, and nothing else is sent.
"""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from gramian.kernels import dense
from gramian.kernels.base import Kernel
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi

__all__ = ["Reduced"]


class Reduced(Kernel):
    """Gram products added up over a process group.

    Args:
        group: The process group among whose members the coordinates are spread.
    """

    name = "reduced"

    def __init__(self, group: Any) -> None:
        self._group = group

    def residual(self, phi: Phi) -> GroupMatrices:
        from torch import distributed

        P = dense.group_matrices(phi)
        with dense.full_precision(P):
            H = dense.half_gram(P)
        # The sum over processes has an order of its own for each entry: so it is symmetrized afterwards.
        distributed.all_reduce(H, group=self._group)
        X = H + H.mT
        X.diagonal(dim1=1, dim2=2).sub_(1)
        return X

    def finite(self, phi: Phi) -> Bool[Tensor, " m"]:
        from torch import distributed

        finite = super().finite(phi).to(torch.int32)
        distributed.all_reduce(finite, op=distributed.ReduceOp.MIN, group=self._group)
        return finite.bool()

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        return penalty.value(self.residual(phi))
