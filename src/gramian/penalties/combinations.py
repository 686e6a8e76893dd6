"""Multiples and sums of penalties, which `*` and `+` build."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties.base import Penalty, WrappedPenalty, derived
from gramian.penalties.entrywise import prox_residual_by_bisection
from gramian.typing import Block, Entries

__all__ = ["Scaled", "Sum"]


@dataclass(frozen=True, eq=False)
class Scaled(WrappedPenalty):
    r"""c·μ(X), which `c * penalty` builds: value and G are c times those of μ, C_τ is that of μ at cτ.

    Args:
        factor: c ≥ 0, finite.
        penalty: μ.

    Raises:
        OptionError: If c is negative or not finite.

    Examples:
        >>> import torch
        >>> from gramian.penalties import L1
        >>> (3 * L1()).value(torch.ones(2, 2)).item()
        12.0
    """

    factor: float
    penalty: Penalty

    elementwise = derived(lambda self: self.penalty.elementwise)
    accepts_blocks = derived(lambda self: self.penalty.accepts_blocks)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor >= 0):
            raise OptionError(f"the factor of a penalty must be finite and at least 0; got {self.factor!r}")

    def value(self, X: Block) -> Float[Tensor, "..."]:
        return self.factor * self.penalty.value(X)

    def subgradient(self, X: Entries) -> Entries:
        return self.factor * self.penalty.subgradient(X)

    def prox_residual(self, X: Entries, tau: Tensor) -> Entries:
        # 0·∞ is NaN: a penalty with the factor 0 removes nothing, even at τ = ∞.
        return self.penalty.prox_residual(X, self.factor * tau if self.factor else torch.zeros_like(tau))


@dataclass(frozen=True, eq=False)
class Sum(Penalty):
    r"""μ₁(X) + μ₂(X) + …, which `+` builds.

    If all parts are elementwise, the prox of the sum is computed by bisection; other sums have no closed prox.

    Args:
        parts: The penalties.

    Raises:
        OptionError: If there are none, or if their parameters are for different numbers of groups.

    Examples:
        >>> import torch
        >>> from gramian.penalties import L1, SquaredFrobenius
        >>> elastic = L1() + 0.5 * SquaredFrobenius()
        >>> C = elastic.prox_residual(torch.tensor([[3.0]]), torch.tensor(1.0))
        >>> round(3 - C.item(), 5)  # the prox of 3 is (3 − 1)/(1 + 1)
        1.0
    """

    parts: tuple[Penalty, ...]

    diagonal = derived(lambda self: any(part.diagonal for part in self.parts))
    elementwise = derived(lambda self: all(part.elementwise for part in self.parts))
    accepts_blocks = derived(lambda self: all(part.accepts_blocks for part in self.parts))
    minimal_at_zero = derived(lambda self: all(part.minimal_at_zero for part in self.parts))
    has_prox = derived(lambda self: self.elementwise)
    n_groups = derived(lambda self: next((p.n_groups for p in self.parts if p.n_groups is not None), None))

    def __post_init__(self) -> None:
        counts = sorted({part.n_groups for part in self.parts if part.n_groups is not None})
        if not self.parts or len(counts) > 1:
            raise OptionError(
                "the parts of a sum must be for the same groups, and at least one; got "
                + (f"parameters for {' and '.join(map(str, counts))} groups" if counts else "none")
            )

    def select_groups(self, which: slice | Tensor) -> Penalty:
        """Return the penalty of some of the groups."""
        return self if self.n_groups is None else Sum(tuple(part.select_groups(which) for part in self.parts))

    def check_sizes(self, m: int, n: int) -> None:
        """Check that each part can be used for m groups of n vectors."""
        for part in self.parts:
            part.check_sizes(m, n)

    def penalized(self, X: Entries) -> Entries:
        """Return, for each entry, the largest in absolute value of those that the parts drive to zero."""
        largest = self.parts[0].penalized(X)
        for part in self.parts[1:]:
            other = part.penalized(X)
            largest = torch.where(other.abs() > largest.abs(), other, largest)
        return largest

    def value(self, X: Block) -> Float[Tensor, "..."]:
        return torch.stack([part.value(X) for part in self.parts]).sum(dim=0)

    def subgradient(self, X: Entries) -> Entries:
        return torch.stack([part.subgradient(X) for part in self.parts]).sum(dim=0)

    def prox_residual(self, X: Entries, tau: Tensor) -> Entries:
        if not self.elementwise:
            raise OptionError(
                "a sum of penalties has no closed prox unless every part is elementwise, as l1 and huber are; try "
                "rule='polyak'"
            )
        return prox_residual_by_bisection(self.subgradient, X, tau)
