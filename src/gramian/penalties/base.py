"""A penalty is three functions of the Gram residual X: its value, its dual and its shrink."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import ShapeError
from gramian.typing import Entries, GroupMatrix

__all__ = ["ElementwisePenalty", "Penalty", "WrappedPenalty", "off_diagonal", "symmetric"]


class Penalty(ABC):
    r"""A convex function μ(X) of the symmetric Gram residual X = PᵀP − I, zero at X = 0.

    A subclass gives three functions of X and nothing else. It knows neither Φ, β nor the learning rate. All
    three take any leading axes and work on each [n, n] matrix by itself. They are written in differentiable
    torch operations, so that second derivatives of the loss need nothing more.

    Examples:
        >>> import torch
        >>> from gramian.penalties import L1
        >>> X = torch.tensor([[0.5, -0.25], [-0.25, 0.0]])
        >>> L1().value(X).item(), L1().dual(X).tolist()
        (1.0, [[1.0, -1.0], [-1.0, 0.0]])
    """

    diagonal: bool = True
    """Whether the lengths of vectors are penalised, or their angles alone."""

    @property
    def entrywise(self) -> bool:
        """Whether blocks of X may be given in its place."""
        return False

    @property
    def separable(self) -> bool:
        """Whether it is a sum over the entries of X, each with a function of its own."""
        return False

    @property
    def centred(self) -> bool:
        """Whether it is least at X = 0; then ‖C_τ(X)‖_F ≤ ‖X‖_F."""
        return True

    @property
    def has_shrink(self) -> bool:
        """Whether C_τ is known, which the proximal rule needs."""
        return True

    @property
    def groups(self) -> int | None:
        """How many groups it has parameters for; None if they are the same for any number."""
        return None

    def of_groups(self, which: slice | Tensor) -> "Penalty":  # noqa: ARG002
        """Give the penalty of some of the groups: of a slice, or of the indices in a tensor."""
        return self

    def check_sizes(self, m: int, n: int) -> None:  # noqa: ARG002
        """Refuse m groups of n vectors if it has parameters for others.

        Raises:
            ShapeError: If so.
        """
        if self.groups is not None and self.groups != m:
            raise ShapeError(
                f"the penalty must have parameters for each of the {m} groups of the tensor; got them for "
                f"{self.groups} groups; try the same for all groups, or penalty.of_groups"
            )

    def __add__(self, other: "Penalty") -> "Penalty":
        """Give the sum of both."""
        from gramian.penalties.sums import Sum

        if not isinstance(other, Penalty):  # pyright: ignore[reportUnnecessaryIsInstance]
            return NotImplemented
        return Sum(tuple(part for each in (self, other) for part in (each.parts if isinstance(each, Sum) else (each,))))

    def __mul__(self, factor: float) -> "Penalty":
        """Give a multiple."""
        from gramian.penalties.sums import Scaled

        return Scaled(float(factor), self) if isinstance(factor, (int, float)) else NotImplemented  # pyright: ignore[reportUnnecessaryIsInstance]

    __rmul__ = __mul__

    def seen(self, X: Entries) -> Entries:
        """Give X as the penalty sees it: with a diagonal of zeros where lengths are free."""
        return X if self.diagonal else off_diagonal(X)

    @abstractmethod
    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        """Give μ(X), one number for each matrix."""

    @abstractmethod
    def dual(self, X: GroupMatrix) -> GroupMatrix:
        """Give G(X) ∈ ∂μ(X), symmetric; at a kink the member of least norm."""

    @abstractmethod
    def shrink(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        """Give the residual shrink C_τ(X) = X − prox_{τμ}(X), for τ ≥ 0; τ = ∞ gives X itself.

        `tau` broadcasts against X: a 0-dimensional tensor, or one τ for each matrix, of shape [..., 1, 1]; for an
        element-wise penalty also one for each entry.
        """


class ElementwisePenalty(Penalty):
    """A penalty that is a sum over the entries of X: `dual` and `shrink` act on each entry by itself.

    So the derivative by one vector needs one column of X alone, and a kernel may apply all three to blocks of X,
    which need be neither square nor symmetric. Where lengths are free, X is given whole, for blocks have no diagonal.
    """

    @property
    def entrywise(self) -> bool:
        """Whether blocks of X may be given in its place."""
        return self.diagonal

    @property
    def separable(self) -> bool:
        """Whether it is a sum over the entries of X."""
        return True


class WrappedPenalty(Penalty):
    """A penalty made of another one, `penalty`, of which it keeps what it sees and what it has parameters for."""

    penalty: Penalty

    @property
    def diagonal(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether lengths are penalised."""
        return self.penalty.diagonal

    @property
    def centred(self) -> bool:
        """Whether it is least at X = 0."""
        return self.penalty.centred

    @property
    def has_shrink(self) -> bool:
        """Whether C_τ is known."""
        return self.penalty.has_shrink

    @property
    def groups(self) -> int | None:
        """How many groups it has parameters for."""
        return self.penalty.groups

    def check_sizes(self, m: int, n: int) -> None:
        """Refuse m groups of n vectors if it has parameters for others."""
        self.penalty.check_sizes(m, n)

    def seen(self, X: Entries) -> Entries:
        """Give X as the penalty sees it."""
        return self.penalty.seen(X)


def symmetric(X: GroupMatrix) -> GroupMatrix:
    """Give (X + Xᵀ)/2: X itself where it is symmetric, and exactly symmetric where it is to rounding only."""
    return X / 2 + X.mT / 2


def off_diagonal(X: GroupMatrix) -> GroupMatrix:
    """Give X with a diagonal of zeros: the angles between vectors, without their lengths."""
    if X.shape[-1] == 1:
        return X - X  # one vector has no angles; but where it is not finite, no entry beside the diagonal would say so
    return X.masked_fill(torch.eye(X.shape[-1], dtype=torch.bool, device=X.device), 0)
