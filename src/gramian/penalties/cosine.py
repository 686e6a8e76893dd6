"""The cosine form of a penalty, which does not depend on the lengths of vectors."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties.base import Penalty, WrappedPenalty, off_diagonal
from gramian.typing import Entries, GroupMatrix

__all__ = ["Cosine"]


@dataclass(frozen=True, eq=False)
class Cosine(WrappedPenalty):
    r"""μ(X̂) of the cosines X̂_jk = X_jk/(d_j d_k) between vectors, with d_j = √(1 + X_jj) their lengths and X̂_jj = 0.

    With Ĝ = ∂μ(X̂), without its diagonal, G_jk = Ĝ_jk/(d_j d_k) and G_jj = −Σ_k Ĝ_jk X̂_jk/d_j²: the gradient has no part
    along the vector itself, and is inversely proportional to the length of the vector. The value does not change when
    a vector is scaled. It is not convex in X and has no closed prox: use the rules polyak and subgradient. The cosines
    of a vector of length 0 are taken to be 0. Lengths are computed from X, so lengths far below 1 have a relative error
    of ε/d_j²: in float32 it is 6 % for a length of 1e-3, and much shorter lengths have no correct digit. Scale such
    vectors up first.

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
    minimal_at_zero = False  # it is zero there, but also for orthogonal vectors of any length
    has_prox = False

    def penalized(self, X: Entries) -> Entries:
        """Return the cosines."""
        return self.penalty.penalized(_cosines(X)[0])

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        return self.penalty.value(_cosines(X)[0])

    def subgradient(self, X: GroupMatrix) -> GroupMatrix:
        cosines, inverse = _cosines(X)
        G = off_diagonal(self.penalty.subgradient(cosines))
        along = (G * cosines).sum(dim=-1) * inverse.square()
        return G * _outer(inverse) - torch.diag_embed(along)

    def prox_residual(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:  # noqa: ARG002
        raise OptionError("the cosine form has no closed prox; try rule='polyak', or diagonal=False")


def _cosines(X: GroupMatrix) -> tuple[GroupMatrix, Float[Tensor, "... n"]]:
    """Return X̂ and 1/d, with 1/d = 0 for a vector of length 0."""
    squares = 1 + X.diagonal(dim1=-2, dim2=-1)
    positive = squares > 0
    inverse = torch.where(positive, torch.rsqrt(torch.where(positive, squares, 1)), 0)
    inverse = torch.where(squares.isnan(), squares, inverse)
    return off_diagonal(X) * _outer(inverse), inverse


def _outer(inverse: Float[Tensor, "... n"]) -> GroupMatrix:
    """Return 1/(d_j d_k), exactly symmetric."""
    return inverse[..., :, None] * inverse[..., None, :]
