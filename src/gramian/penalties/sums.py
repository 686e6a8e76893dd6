"""Penalties times numbers, and sums of penalties: what `*` and `+` give."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties.base import Penalty, WrappedPenalty
from gramian.penalties.bisection import shrink_by_bisection
from gramian.typing import Block, Entries

__all__ = ["Scaled", "Sum"]


@dataclass(frozen=True, eq=False)
class Scaled(WrappedPenalty):
    r"""c·μ(X), which `c * penalty` gives: G and value c times as large, C_τ that of μ at cτ.

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

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor >= 0):
            raise OptionError(f"a penalty can be scaled by a finite number of at least 0; got {self.factor!r}")

    @property
    def entrywise(self) -> bool:
        """Whether blocks of X may be given in its place."""
        return self.penalty.entrywise

    @property
    def separable(self) -> bool:
        """Whether it is a sum over the entries of X."""
        return self.penalty.separable

    def of_groups(self, which: slice | Tensor) -> Penalty:
        """Give the penalty of some of the groups."""
        return self if self.groups is None else Scaled(self.factor, self.penalty.of_groups(which))

    def value(self, X: Block) -> Float[Tensor, "..."]:
        return self.factor * self.penalty.value(X)

    def dual(self, X: Entries) -> Entries:
        return self.factor * self.penalty.dual(X)

    def shrink(self, X: Entries, tau: Tensor) -> Entries:
        # 0·∞ is no number; a penalty that is nothing takes nothing away.
        return self.penalty.shrink(X, self.factor * tau if self.factor else torch.zeros_like(tau))


@dataclass(frozen=True, eq=False)
class Sum(Penalty):
    r"""μ₁(X) + μ₂(X) + …, which `+` gives.

    A sum of penalties that act on each entry of X by itself has its shrink by bisection; no other sum has a closed one.

    Args:
        parts: The penalties.

    Raises:
        OptionError: If there are none, or if their parameters are for different numbers of groups.

    Examples:
        >>> import torch
        >>> from gramian.penalties import L1, SquaredFrobenius
        >>> elastic = L1() + 0.5 * SquaredFrobenius()
        >>> C = elastic.shrink(torch.tensor([[3.0]]), torch.tensor(1.0))
        >>> round(3 - C.item(), 5)  # what stays of 3 is (3 − 1)/(1 + 1)
        1.0
    """

    parts: tuple[Penalty, ...]

    def __post_init__(self) -> None:
        counts = sorted({part.groups for part in self.parts if part.groups is not None})
        if not self.parts or len(counts) > 1:
            raise OptionError(
                "the parts of a sum must be for the same groups, and at least one; got "
                + (f"parameters for {' and '.join(map(str, counts))} groups" if counts else "none")
            )

    @property
    def diagonal(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether lengths are penalised by any part."""
        return any(part.diagonal for part in self.parts)

    @property
    def entrywise(self) -> bool:
        """Whether blocks of X may be given in its place."""
        return all(part.entrywise for part in self.parts)

    @property
    def separable(self) -> bool:
        """Whether it is a sum over the entries of X."""
        return all(part.separable for part in self.parts)

    @property
    def centred(self) -> bool:
        """Whether each part is least at X = 0."""
        return all(part.centred for part in self.parts)

    @property
    def has_shrink(self) -> bool:
        """Whether C_τ is known: where it is a sum over the entries of X."""
        return self.separable

    @property
    def groups(self) -> int | None:
        """How many groups it has parameters for."""
        return next((part.groups for part in self.parts if part.groups is not None), None)

    def of_groups(self, which: slice | Tensor) -> Penalty:
        """Give the penalty of some of the groups."""
        return self if self.groups is None else Sum(tuple(part.of_groups(which) for part in self.parts))

    def check_sizes(self, m: int, n: int) -> None:
        """Refuse m groups of n vectors if a part has parameters for others."""
        for part in self.parts:
            part.check_sizes(m, n)

    def seen(self, X: Entries) -> Entries:
        """Give, of each entry, the largest that a part sees."""
        found = self.parts[0].seen(X)
        for part in self.parts[1:]:
            other = part.seen(X)
            found = torch.where(other.abs() > found.abs(), other, found)
        return found

    def value(self, X: Block) -> Float[Tensor, "..."]:
        return torch.stack([part.value(X) for part in self.parts]).sum(dim=0)

    def dual(self, X: Entries) -> Entries:
        return torch.stack([part.dual(X) for part in self.parts]).sum(dim=0)

    def shrink(self, X: Entries, tau: Tensor) -> Entries:
        if not self.separable:
            raise OptionError(
                "a sum of penalties has a shrink only where each acts on every entry of X by itself, as l1 and huber "
                "do; try rule='polyak'"
            )
        return shrink_by_bisection(self.dual, X, tau)
