"""The hard constraint: steps of the proximal rule at η = ∞, until groups are orthonormal or stop improving."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.kernels import reference
from gramian.layout import as_phi, from_phi
from gramian.penalties import Penalty
from gramian.penalties.base import WrappedPenalty
from gramian.rules.apply import Operand, put_
from gramian.typing import GroupMatrix, Phi, Scalar

__all__ = ["MOST_STEPS", "Excess", "Restoration", "free_lengths", "rounding_level", "until_restored"]

MOST_STEPS = 60
"""Newton–Schulz steps from any start; near the manifold each squares the residual, and two or three suffice."""

_CLOSE = 1e-2
_FALLS = 0.95
_PATIENCE = 25
"""Consecutive steps without measurable progress: from a scale of 1e-4 it takes as many until float32 shows some."""
_PATIENCE_CLOSE = 3
_FIRST_UNREAD, _UNREAD = 2, 4
"""Steps on a device between two numbers that the host reads; a step after convergence changes rounding only."""


@dataclass(frozen=True)
class Restoration:
    """The result of a restoration.

    Attributes:
        loss: The loss before it, of the penalty at β = 1; a 0-dimensional tensor.
        steps: Number of steps.
        stopped: Why it stopped: 'converged', 'no progress', 'most steps' or 'not finite'.
    """

    loss: Scalar
    steps: int
    stopped: str

    @property
    def converged(self) -> bool:
        """Whether every |X_jk| that the penalty includes was within rounding."""
        return self.stopped == "converged"

    def __repr__(self) -> str:
        return f"Restoration({self.stopped}, {self.steps} steps)"


@dataclass(frozen=True, eq=False)
class Excess(WrappedPenalty):
    """A penalty whose value is the largest |X_jk| of each group, or 0 within rounding, and the prox of another.

    At η = ∞ a step depends only on the entries of X that the penalty includes. So the value can tell whether all groups
    were within rounding before the step: then the loss is 0, also after an all-reduce.
    """

    penalty: Penalty
    rounding: float

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        """Compute the largest |X_jk| that is penalised, 0 where it is within rounding."""
        sizes = self.penalty.penalized(X).abs().flatten(-2)
        largest = torch.nn.functional.pad(sizes, (0, 1)).amax(dim=-1)
        return torch.where(largest <= self.rounding, 0, largest)

    def subgradient(self, X: GroupMatrix) -> GroupMatrix:
        """Compute the subgradient of the wrapped penalty, which a step at η = ∞ does not use."""
        return self.penalty.subgradient(X)

    def prox_residual(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        """Compute the prox residual of the wrapped penalty."""
        return self.penalty.prox_residual(X, tau)


def rounding_level(dtype: torch.dtype, length: int = 1, *, products: torch.dtype = torch.float64) -> float:
    """Compute the largest |X_jk| that rounding explains: the larger of 4ε of P and (2 + √l/2)·ε of the products.

    Storing P in a format of spacing ε changes an entry of PᵀP by at most ε, whatever its length. Forming PᵀP in a
    format of spacing ε changes it by more, the longer the sum: a sequential sum of l squares that add up to 1 is off by
    about √l·ε/8 (0.44·√l·ε was the largest error in 2000 sums of each length up to 100,000). Both errors add up, which
    matters for l from 64 to 100: with √l/2 instead of 2 + √l/2, up to a quarter of the restorations of 64 groups of 4
    vectors made more steps than needed, and 1 of 200 in float64 did not converge.

    Args:
        dtype: Format in which P is stored.
        length: l.
        products: Format in which PᵀP is formed.

    Examples:
        >>> import torch
        >>> rounding_level(torch.float32), rounding_level(torch.float64, 10000)
        (4.76...e-07, 1.15...e-14)
    """
    return max(4 * torch.finfo(dtype).eps, (2 + math.sqrt(length) / 2) * torch.finfo(products).eps)


def until_restored(
    step: Callable[[Penalty], Scalar],
    penalty: Penalty,
    *,
    dtype: torch.dtype,
    length: int,
    max_steps: int = MOST_STEPS,
) -> Restoration:
    """Make steps until every group is within rounding, or stops improving.

    Args:
        step: Makes one step at η = ∞ with a penalty, in place, and returns the loss before it, summed over groups.
        penalty: Which entries of X are to be zero: those that it includes.
        dtype: Dtype of the parameters.
        length: The largest l.
        max_steps: Largest number of steps.

    Returns:
        The loss, the number of steps, and why they ended. On a device up to three steps more are made than are needed,
        because the host waits for it after the third step and then after every fourth.
    """
    level = rounding_level(dtype, length, products=reference.compute_dtype(dtype))
    loss, excess = step(penalty), Excess(penalty, level)
    least, waited, steps = math.inf, 0, 1
    unread = 1 if loss.device.type == "cpu" else _FIRST_UNREAD
    while steps < max_steps:
        measured = [step(excess) for _ in range(min(unread, max_steps - steps))]
        steps += len(measured)
        for largest in _read(measured):
            if largest == 0:
                return Restoration(loss, steps, "converged")
            if not math.isfinite(largest):
                return Restoration(loss, steps, "not finite")
            waited = 0 if largest < _FALLS * least else waited + 1
            least = min(least, largest)
            # Near the manifold only rounding can prevent progress; far away a small singular value grows unmeasured.
            if waited >= (_PATIENCE if largest > _CLOSE else _PATIENCE_CLOSE):
                return Restoration(loss, steps, "no progress")
        unread = 1 if loss.device.type == "cpu" else _UNREAD
    return Restoration(loss, steps, "most steps")


def _read(numbers: Sequence[Scalar]) -> list[float]:
    """Read numbers: the host waits for a device once."""
    return [float(numbers[0])] if len(numbers) == 1 else torch.stack(list(numbers)).tolist()


@contextmanager
def free_lengths(operands: Sequence[Operand], penalty: Penalty) -> Generator[Callable[[], None]]:
    """Keep vectors at length 1 between steps, and restore their lengths at the end, if the penalty ignores lengths.

    If the penalty includes lengths, or inner products that depend on them, as those of a `TargetGram`, nothing is
    changed. Vectors of length 0 stay as they are.

    Args:
        operands: The tensors that are stepped; written to.
        penalty: The penalty.

    Yields:
        A function to call after each step, which sets the lengths to 1.
    """
    if penalty.diagonal or not penalty.minimal_at_zero:
        yield lambda: None
        return
    before = [_lengths(_phi(operand)) for operand in operands]

    def normalize() -> None:
        for operand, lengths in zip(operands, before, strict=True):
            _set_lengths_(operand, torch.ones_like(lengths))

    try:
        yield normalize
    finally:
        for operand, lengths in zip(operands, before, strict=True):
            _set_lengths_(operand, lengths)


def _phi(operand: Operand) -> Phi:
    return as_phi(operand.tensor, operand.layout)


def _lengths(phi: Phi) -> Tensor:
    return torch.linalg.vector_norm(phi, dim=0, dtype=reference.compute_dtype(phi.dtype))


def _set_lengths_(operand: Operand, lengths: Tensor) -> None:
    phi = _phi(operand)
    current = _lengths(phi)
    scaled = phi * torch.where(current > 0, lengths / current, 1)
    put_(operand.tensor, from_phi(scaled, operand.tensor, operand.layout))
