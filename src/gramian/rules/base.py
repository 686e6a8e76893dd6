"""What an update rule is: a function from Φ to a change of Φ."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gramian.errors import OptionError
from gramian.objective import as_number
from gramian.penalties import Penalty
from gramian.typing import Phi, Scalar

__all__ = ["Rule", "Step", "check_lr"]


@dataclass(frozen=True)
class Step:
    """What one application of a rule gives: the change of Φ, and the loss before it."""

    change: Phi
    loss: Scalar


@runtime_checkable
class Rule(Protocol):
    """An update rule: a pure function from Φ to a `Step`, which leaves adding the change to its caller."""

    def __call__(self, phi: Phi, *, lr: float, beta: float, penalty: Penalty) -> Step:
        """Apply the rule once; `phi` is not written to."""
        ...


def check_lr(lr: float) -> float:
    """Return a learning rate as a float if it is at least zero; infinity is allowed.

    Raises:
        OptionError: If it is negative or NaN.
    """
    value = as_number(lr, "lr")
    if not value >= 0:
        raise OptionError(f"lr must be at least 0; got {lr!r}; try lr=0.1")
    return value
