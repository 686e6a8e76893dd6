"""The spectral norm: the one direction that is furthest from orthonormal."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties.base import Penalty
from gramian.penalties.spectrum import compose, decompose, largest, onto_l1_ball
from gramian.typing import GroupMatrix

__all__ = ["Spectral"]


@dataclass(frozen=True)
class Spectral(Penalty):
    r"""μ(X) = ‖X‖₂ = max|λ|, G = sign(λ)vvᵀ, C_τ(X) the projection of X on the nuclear-norm ball of radius τ.

    Where several |λ| are largest, G is their mean, the member of least norm. Peers estimate the largest by a few
    power iterations; here it is exact, from an eigendecomposition of each n × n matrix.

    Args:
        diagonal: Whether lengths are penalised; without them X is taken with a zero diagonal, and no shrink is known.

    Cost:
        About 10·n³ flops for each group.

    References:
        Bansal, Chen and Wang, "Can we gain more from orthogonality regularizations in training deep networks?",
        NeurIPS 2018 ("spectral restricted isometry property", SRIP).
    """

    diagonal: bool = True

    @property
    def has_shrink(self) -> bool:
        """Whether C_τ is known: only with lengths."""
        return self.diagonal

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        return largest(decompose(self.seen(X))[0].abs())

    def dual(self, X: GroupMatrix) -> GroupMatrix:
        values, vectors = decompose(self.seen(X))
        sizes = values.abs()
        top = largest(sizes)[..., None]
        # Eigenvalues that differ by rounding alone are one.
        tied = (sizes >= top * (1 - 4 * X.shape[-1] * torch.finfo(X.dtype).eps)) & (top > 0)
        share = tied.to(X.dtype) / tied.sum(dim=-1, keepdim=True).clamp_min(1)
        return self.seen(compose(values.sign() * share, vectors))

    def shrink(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        if not self.diagonal:
            raise OptionError("Spectral(diagonal=False) has no closed shrink; try rule='polyak' or diagonal=True")
        values, vectors = decompose(X)
        radius = tau if tau.ndim == 0 else tau[..., 0]
        kept = onto_l1_ball(values, radius)
        # A ball that X is within leaves its digits alone.
        within = (values.abs().sum(dim=-1, keepdim=True) <= radius)[..., None]
        return torch.where(within, X, compose(kept, vectors))
