"""The log-determinant divergence: it grows without bound as the vectors of a group become dependent."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties.base import Penalty
from gramian.penalties.spectrum import compose, decompose
from gramian.typing import GroupMatrix

__all__ = ["LogDet"]

_SERIES = 1e-2


@dataclass(frozen=True)
class LogDet(Penalty):
    r"""μ(X) = tr(PᵀP) − log det(PᵀP) − n, G = I − (PᵀP)⁻¹ with PᵀP = I + X: a barrier against a loss of rank.

    Infinite where the vectors are dependent. The shrink takes from each eigenvalue λ of X what the prox of
    λ − log(1 + λ) does, the root of a quadratic.

    Args:
        diagonal: Whether lengths are penalised; without them X is taken with a zero diagonal, and no shrink is known.

    Cost:
        About 10·n³ flops for each group.

    References:
        James and Stein, "Estimation with quadratic loss", 1961, for the divergence.
    """

    diagonal: bool = True

    @property
    def has_shrink(self) -> bool:
        """Whether C_τ is known: only with lengths."""
        return self.diagonal

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        values, _ = decompose(self.seen(X))
        # λ − log(1 + λ) by its series near 0, where the difference would lose its digits.
        near = values.abs() < _SERIES
        small = torch.where(near, values, 0)
        series = small.square() * (1 / 2 - small * (1 / 3 - small * (1 / 4 - small * (1 / 5 - small / 6))))
        inside = torch.where(near | (values <= -1), 1, values)
        exact = torch.where(values <= -1, torch.inf, inside - torch.log1p(inside))
        return torch.where(near, series, exact + 0 * values).sum(dim=-1)

    def dual(self, X: GroupMatrix) -> GroupMatrix:
        values, vectors = decompose(self.seen(X))
        return self.seen(compose(values / (1 + values), vectors))

    def shrink(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        if not self.diagonal:
            raise OptionError("LogDet(diagonal=False) has no closed shrink; try rule='polyak' or diagonal=True")
        values, vectors = decompose(X)
        length = tau if tau.ndim == 0 else tau[..., 0]
        # With y the eigenvalue that stays: y + τy/(1 + y) = λ.
        b = 1 + length - values
        root = ((1 + values - length).square() + 4 * length).sqrt()
        y = torch.where(b > 0, 2 * values / (b + root), (root - b) / 2)
        taken = torch.where(length == 0, 0, length * y / (1 + y))
        whole = length.isinf()[..., None] if length.ndim else length.isinf()
        return torch.where(whole, X, compose(taken, vectors))
