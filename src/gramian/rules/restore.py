"""The hard constraint: steps of the proximal rule at η = ∞, until groups are orthonormal or get no nearer."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.penalties import Penalty
from gramian.penalties.base import WrappedPenalty
from gramian.typing import GroupMatrix, Scalar

__all__ = ["MOST_STEPS", "Excess", "Restoration", "level", "until_restored"]

MOST_STEPS = 60
"""Newton–Schulz steps from any start; near the manifold each squares the residual, and two or three are enough."""

_CLOSE = 1e-2
_FALLS = 0.95
_PATIENCE = 25
"""Steps in a row that may bring nothing that is seen: a start of scale 1e-4 takes as many until float32 sees it."""
_PATIENCE_CLOSE = 3


@dataclass(frozen=True)
class Restoration:
    """What a restoration did.

    Attributes:
        loss: The loss before it, of the penalty at β = 1; a 0-dimensional tensor.
        steps: How many steps were made.
        stopped: Why it stopped: 'converged', 'no progress', 'most steps' or 'not finite'.
    """

    loss: Scalar
    steps: int
    stopped: str

    @property
    def converged(self) -> bool:
        """Whether every |X_jk| that the penalty sees was within rounding."""
        return self.stopped == "converged"


@dataclass(frozen=True, eq=False)
class Excess(WrappedPenalty):
    """Measure, of each group, by how much the largest |X_jk| that a penalty sees is above rounding; shrink as it does.

    At η = ∞ a step depends on a penalty by what it sees of X alone. So the loss of a step is free to say whether all
    groups were within rounding before it: then it is 0, in every process of a group that adds it up.
    """

    penalty: Penalty
    rounding: float

    def of_groups(self, which: slice | Tensor) -> Penalty:
        """Give that of some of the groups."""
        return self if self.groups is None else Excess(self.penalty.of_groups(which), self.rounding)

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        """Give the largest |X_jk| that is seen, 0 where it is within rounding."""
        sizes = self.penalty.seen(X).abs().flatten(-2)
        largest = torch.nn.functional.pad(sizes, (0, 1)).amax(dim=-1)
        return torch.where(largest <= self.rounding, 0, largest)

    def dual(self, X: GroupMatrix) -> GroupMatrix:
        """Give that of the penalty, which no step at η = ∞ asks for."""
        return self.penalty.dual(X)

    def shrink(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        """Give that of the penalty."""
        return self.penalty.shrink(X, tau)


def level(dtype: torch.dtype, length: int) -> float:
    """Give the largest |X_jk| that rounding explains, of vectors of some length."""
    return 4 * torch.finfo(dtype).eps * max(1.0, math.sqrt(length) / 8)


def until_restored(
    step: Callable[[Penalty], Scalar], penalty: Penalty, *, rounding: float, max_steps: int = MOST_STEPS
) -> Restoration:
    """Make steps until every group is within rounding, or gets no nearer.

    Args:
        step: Makes one step at η = ∞ with a penalty, in place, and gives the loss before it, summed over groups.
        penalty: Which entries of X are to be zero: those that it sees.
        rounding: The largest |X_jk| that rounding explains; see `level`.
        max_steps: Stop after as many steps in any case.

    Returns:
        What was done.
    """
    loss, excess = step(penalty), Excess(penalty, rounding)
    least, waited, steps = math.inf, 0, 1
    while steps < max_steps:
        left = float(step(excess))
        steps += 1
        if left == 0:
            return Restoration(loss, steps, "converged")
        if not math.isfinite(left):
            return Restoration(loss, steps, "not finite")
        waited = 0 if left < _FALLS * least else waited + 1
        least = min(least, left)
        # Close by, rounding is all that can hold a step up; far away a start of tiny vectors grows unseen.
        if waited >= (_PATIENCE if left > _CLOSE else _PATIENCE_CLOSE):
            return Restoration(loss, steps, "no progress")
    return Restoration(loss, steps, "most steps")
