"""The cosine form: vectors of any length, as if they were of length 1."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties.base import Penalty, off_diagonal
from gramian.typing import Entries, GroupMatrix

__all__ = ["Cosine"]


@dataclass(frozen=True, eq=False)
class Cosine(Penalty):
    r"""μ(X̂) of the cosines X̂_jk = X_jk/(d_j d_k) between vectors, with d_j = √(1 + X_jj) their lengths and X̂_jj = 0.

    With Ĝ = ∂μ(X̂), without its diagonal, G_jk = Ĝ_jk/(d_j d_k) and G_jj = −Σ_k Ĝ_jk X̂_jk/d_j²: the gradient has no part
    along the vector itself, and gets smaller as the vector gets longer. The value does not change when a vector is
    scaled. It is not convex in X and has no shrink: the rules for it are polyak and subgradient. A vector of length 0
    has no cosines, and costs nothing. Lengths are read from X, so those far below 1 are known to ε/d_j² alone: in
    float32 a vector of length 1e-3 to 6 %, and a shorter one hardly at all. Scale such vectors up first.

    Args:
        penalty: μ.

    References:
        Keras, `keras.regularizers.OrthogonalRegularizer`, whose value with mode='rows' is factor/(n(n − 1)) times this
        one with l1.

    Examples:
        >>> import torch, gramian
        >>> from gramian.penalties import L1, Cosine
        >>> phi = torch.tensor([[2.0, 3.0], [0.0, 4.0]])  # lengths 2 and 5, cosine 0.6
        >>> gramian.loss(phi, penalty=Cosine(L1())).item()
        1.2...
    """

    penalty: Penalty

    diagonal = False

    @property
    def centred(self) -> bool:
        """Whether it is least at X = 0: it is, and so at every multiple of vectors."""
        return False

    @property
    def has_shrink(self) -> bool:
        """Whether C_τ is known: it is not."""
        return False

    @property
    def groups(self) -> int | None:
        """How many groups it has parameters for."""
        return self.penalty.groups

    def of_groups(self, which: slice | Tensor) -> Penalty:
        """Give the penalty of some of the groups."""
        return self if self.groups is None else Cosine(self.penalty.of_groups(which))

    def check_sizes(self, m: int, n: int) -> None:
        """Refuse m groups of n vectors if it has parameters for others."""
        self.penalty.check_sizes(m, n)

    def seen(self, X: Entries) -> Entries:
        """Give the cosines."""
        return self.penalty.seen(_cosines(X)[0])

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        return self.penalty.value(_cosines(X)[0])

    def dual(self, X: GroupMatrix) -> GroupMatrix:
        cosines, inverse = _cosines(X)
        G = off_diagonal(self.penalty.dual(cosines))
        along = (G * cosines).sum(dim=-1) * inverse.square()
        return G * _outer(inverse) - torch.diag_embed(along)

    def shrink(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:  # noqa: ARG002
        raise OptionError("the cosine form has no closed shrink; try rule='polyak', or diagonal=False")


def _cosines(X: GroupMatrix) -> tuple[GroupMatrix, Float[Tensor, "... n"]]:
    """Give X̂ and 1/d, 0 for a vector of length 0."""
    squares = 1 + X.diagonal(dim1=-2, dim2=-1)
    there = squares > 0
    inverse = torch.where(there, torch.rsqrt(torch.where(there, squares, 1)), 0)
    inverse = torch.where(squares.isnan(), squares, inverse)
    return off_diagonal(X) * _outer(inverse), inverse


def _outer(inverse: Float[Tensor, "... n"]) -> GroupMatrix:
    """Give 1/(d_j d_k), exactly symmetric."""
    return inverse[..., :, None] * inverse[..., None, :]
