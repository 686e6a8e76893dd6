"""The interface of a penalty: three functions of the Gram residual X, and flags that say what they need."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError, ShapeError
from gramian.typing import Entries, GroupMatrix

__all__ = ["Penalty", "WrappedPenalty", "derived", "off_diagonal"]


def derived(function: Callable[[Any], Any]) -> Any:
    """Define a flag that is computed from the fields of the penalty: a property in the place of a plain attribute."""
    return property(function)


class Penalty(ABC):
    r"""A function μ(X) of the symmetric Gram residual X = PᵀP − I.

    A subclass defines `value` and `subgradient`, and `prox_residual` if the prox has a closed form. All three are
    functions of X alone; they do not know Φ, β or the learning rate. They accept any leading axes and treat each
    [n, n] matrix by itself. They consist of differentiable torch operations, so that autograd can differentiate the
    loss twice.

    Examples:
        >>> import torch
        >>> from gramian.penalties import L1
        >>> X = torch.tensor([[0.5, -0.25], [-0.25, 0.0]])
        >>> L1().value(X).item(), L1().subgradient(X).tolist()
        (1.0, [[1.0, -1.0], [-1.0, 0.0]])
    """

    diagonal: bool = True
    """Whether the lengths of vectors are penalised too; if not, only the angles between them are."""

    elementwise: bool = False
    """Whether μ(X) = Σ_jk h_jk(X_jk), each h_jk convex with its minimum at 0: then G and C_τ act entry by entry."""

    accepts_blocks: bool = derived(lambda self: self.elementwise and self.diagonal)
    """Whether the three functions accept any block of X, which need be neither square nor symmetric.

    This holds where every entry has the same function. Kernels then work panel by panel, and the derivative with
    respect to one vector needs only one column of X.
    """

    minimal_at_zero: bool = True
    """Whether μ has its minimum at X = 0 only, so that ‖C_τ(X)‖_F ≤ ‖X‖_F."""

    has_prox: bool = derived(lambda self: type(self).prox_residual is not Penalty.prox_residual)
    """Whether `prox_residual` is defined, which the proximal rule requires."""

    n_groups: int | None = None
    """Number of groups that the penalty has parameters for; None if it has the same parameters for every group."""

    def select_groups(self, which: slice | Tensor) -> "Penalty":  # noqa: ARG002
        """Return the penalty of some of the groups, given as a slice or as a tensor of indices."""
        return self

    def check_sizes(self, m: int, n: int) -> None:  # noqa: ARG002
        """Check that the penalty can be used for m groups of n vectors.

        Raises:
            ShapeError: If its parameters are for another number or size of groups.
        """
        if self.n_groups is not None and self.n_groups != m:
            raise ShapeError(
                f"the penalty must have parameters for each of the {m} groups of the tensor; got them for "
                f"{self.n_groups} groups; try the same for all groups, or penalty.select_groups"
            )

    def __add__(self, other: "Penalty") -> "Penalty":
        """Return the sum of two penalties."""
        from gramian.penalties.combinations import Sum

        if not isinstance(other, Penalty):  # pyright: ignore[reportUnnecessaryIsInstance]
            return NotImplemented
        return Sum(tuple(part for mu in (self, other) for part in (mu.parts if isinstance(mu, Sum) else (mu,))))

    def __mul__(self, factor: float) -> "Penalty":
        """Return a multiple of the penalty."""
        from gramian.penalties.combinations import Scaled

        return Scaled(float(factor), self) if isinstance(factor, (int, float)) else NotImplemented  # pyright: ignore[reportUnnecessaryIsInstance]

    __rmul__ = __mul__

    def penalized(self, X: Entries) -> Entries:
        """Return the matrix that the penalty drives to zero: X, with a zero diagonal where lengths are free."""
        return X if self.diagonal else off_diagonal(X)

    @abstractmethod
    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        """Compute μ(X), one number for each matrix."""

    @abstractmethod
    def subgradient(self, X: GroupMatrix) -> GroupMatrix:
        """Compute G(X) ∈ ∂μ(X), symmetric; at a kink the member of least norm."""

    def prox_residual(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:  # noqa: ARG002
        """Compute C_τ(X) = X − prox_{τμ}(X), the part of X that a proximal step of length τ ≥ 0 removes.

        τ = ∞ gives `penalized(X)`. `tau` broadcasts against X: a 0-dimensional tensor, or one τ for each matrix, of
        shape [..., 1, 1]; for an elementwise penalty also one for each entry.

        Raises:
            OptionError: If the penalty has no prox in closed form; this is the default.
        """
        raise OptionError(f"{type(self).__name__} has no closed prox; try rule='polyak'")


class WrappedPenalty(Penalty):
    """A penalty that is built from another one, `penalty`, and has its flags and parameters unless it overrides them.

    It is not elementwise, and does not accept blocks, unless a subclass says so. Subclasses are dataclasses.
    """

    penalty: Penalty

    diagonal: bool = derived(lambda self: self.penalty.diagonal)
    minimal_at_zero: bool = derived(lambda self: self.penalty.minimal_at_zero)
    has_prox: bool = derived(lambda self: self.penalty.has_prox)
    n_groups: int | None = derived(lambda self: self.penalty.n_groups)

    def select_groups(self, which: slice | Tensor) -> Penalty:
        """Return the penalty of some of the groups."""
        return self if self.n_groups is None else self._replace(penalty=self.penalty.select_groups(which))

    def _replace(self, **fields: Any) -> Penalty:
        return dataclasses.replace(self, **fields)  # pyright: ignore[reportArgumentType]

    def check_sizes(self, m: int, n: int) -> None:
        """Check that the penalty can be used for m groups of n vectors."""
        self.penalty.check_sizes(m, n)

    def penalized(self, X: Entries) -> Entries:
        """Return the matrix that the wrapped penalty drives to zero."""
        return self.penalty.penalized(X)


def off_diagonal(X: GroupMatrix) -> GroupMatrix:
    """Return X with a diagonal of zeros: the angles between vectors, without their lengths."""
    if X.shape[-1] == 1:
        # A single vector has no angles. X − X keeps a NaN, which no off-diagonal entry would show.
        return X - X
    return X.masked_fill(torch.eye(X.shape[-1], dtype=torch.bool, device=X.device), 0)
