"""The log-determinant divergence: it grows without bound as the vectors of a group become dependent."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties.base import Penalty, derived
from gramian.penalties.norms import compose, decompose
from gramian.typing import GroupMatrix

__all__ = ["LogDet"]

_SERIES = 1e-2


@dataclass(frozen=True)
class LogDet(Penalty):
    r"""μ(X) = tr(PᵀP) − log det(PᵀP) − n, G = I − (PᵀP)⁻¹ with PᵀP = I + X: a barrier against a loss of rank.

    It is infinite where the vectors are dependent. C_τ applies the prox residual of λ − log(1 + λ), which solves a
    quadratic equation, to each eigenvalue λ of X.

    Args:
        diagonal: Whether lengths are penalised too; if not, X has a zero diagonal, and there is no closed prox.

    Cost:
        About 10·n³ flops for each group.

    Examples:
        >>> import torch
        >>> from gramian.penalties import LogDet
        >>> round(LogDet().value(torch.eye(2)).item(), 4)  # PᵀP = 2I
        0.6137

    References:
        James and Stein, "Estimation with quadratic loss", 1961, for the divergence.
    """

    diagonal: bool = True

    has_prox = derived(lambda self: self.diagonal)

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        values, _ = decompose(self.penalized(X))
        # Near 0 the difference λ − log(1 + λ) would lose its digits; its series does not.
        near = values.abs() < _SERIES
        small = torch.where(near, values, 0)
        series = small.square() * (1 / 2 - small * (1 / 3 - small * (1 / 4 - small * (1 / 5 - small / 6))))
        inside = torch.where(near | (values <= -1), 1, values)
        exact = torch.where(values <= -1, torch.inf, inside - torch.log1p(inside))
        return torch.where(near, series, exact + 0 * values).sum(dim=-1)

    def subgradient(self, X: GroupMatrix) -> GroupMatrix:
        values, vectors = decompose(self.penalized(X))
        return self.penalized(compose(values / (1 + values), vectors))

    def prox_residual(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        if not self.diagonal:
            raise OptionError(f"{self!r} has no closed prox; try rule='polyak' or diagonal=True")
        values, vectors = decompose(X)
        length = tau if tau.ndim == 0 else tau[..., 0]
        # The prox y of an eigenvalue λ solves y + τy/(1 + y) = λ.
        b = 1 + length - values
        root = ((1 + values - length).square() + 4 * length).sqrt()
        y = torch.where(b > 0, 2 * values / (b + root), (root - b) / 2)
        removed = torch.where(length == 0, 0, length * y / (1 + y))
        infinite = length.isinf()[..., None] if length.ndim else length.isinf()
        return torch.where(infinite, X, compose(removed, vectors))
