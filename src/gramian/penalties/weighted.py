"""A weight for every pair of vectors: 0 for those that may be anything."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties.base import Penalty
from gramian.penalties.pairs import check_pairs, check_sizes, for_groups, of_groups
from gramian.typing import Entries, GroupMatrix

__all__ = ["Weighted"]


@dataclass(frozen=True, eq=False)
class Weighted(Penalty):
    r"""μ(X) = Σ_jk W_jk h(X_jk), for a penalty of each entry by itself, h: G = W∘h'(X), C_τ that of h at τW_jk.

    Args:
        penalty: One that acts on each entry by itself: l1, huber, squared_frobenius, `Elementwise`, or a sum of those.
        weights: W ≥ 0, symmetric, [n, n], or [m, n, n] for groups of their own weights. A diagonal of zeros leaves
            lengths free.

    Raises:
        OptionError: If the penalty is of another kind, or the weights are not symmetric, finite and at least 0.
        ShapeError: When it is used, if n or m is not that of Φ.

    Examples:
        >>> import torch, gramian
        >>> from gramian.penalties import L1, Weighted
        >>> W = torch.ones(3, 3)
        >>> W[0, 1] = W[1, 0] = 0  # these two may be what they like to each other
        >>> found = gramian.orthogonalize(torch.randn(16, 1, 3), penalty=Weighted(L1(), W))
        >>> X = gramian.residual(found.phi)[0].abs()
        >>> (X[0, 1] > 1e-3).item(), (X[0, 2] < 1e-6).item()
        (True, True)
    """

    penalty: Penalty
    weights: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        if not self.penalty.entrywise:
            raise OptionError(
                f"weights need a penalty of each entry of X by itself, with its diagonal; got {self.penalty!r}; try "
                "Weighted(L1(), weights), with a diagonal of zeros to leave lengths free"
            )
        weights = check_pairs(self.weights, "weights")
        if (weights < 0).any():
            raise OptionError(f"weights must be at least 0; got {weights.min().item():.3g}")
        object.__setattr__(self, "weights", weights)

    @property
    def separable(self) -> bool:
        """Whether it is a sum over the entries of X."""
        return True

    @property
    def diagonal(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether lengths are penalised."""
        return bool(self.weights.diagonal(dim1=-2, dim2=-1).any())

    @property
    def groups(self) -> int | None:
        """How many groups it has weights for."""
        return for_groups(self.weights)

    def of_groups(self, which: slice | Tensor) -> Penalty:
        """Give the penalty of some of the groups."""
        return self if self.groups is None else Weighted(self.penalty, self.weights[which])

    def check_sizes(self, m: int, n: int) -> None:
        """Refuse m groups of n vectors if the weights are for others."""
        check_sizes(self.weights, m, n, "weights")

    def seen(self, X: Entries) -> Entries:
        """Give X where it has a weight."""
        return torch.where(of_groups(self.weights, X, "weights") > 0, X, 0)

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        W = of_groups(self.weights, X, "weights")
        return (W * self.penalty.value(X[..., None, None])).sum(dim=(-2, -1))

    def dual(self, X: GroupMatrix) -> GroupMatrix:
        return of_groups(self.weights, X, "weights") * self.penalty.dual(X)

    def shrink(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        W = of_groups(self.weights, X, "weights")
        return self.penalty.shrink(X, torch.where(W > 0, tau * W, 0).to(X.dtype))
