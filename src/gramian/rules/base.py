"""What an update rule is: a function from Φ to a change of Φ."""

from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from gramian.errors import OptionError
from gramian.objective import as_number
from gramian.penalties import Penalty
from gramian.typing import Phi, Scalar

__all__ = ["Rule", "Step", "check_lr", "coordinatewise", "groupwise", "is_coordinatewise", "is_groupwise"]


@dataclass(frozen=True)
class Step:
    """What one application of a rule gives: the change of Φ, and the loss before it."""

    change: Phi
    loss: Scalar


@runtime_checkable
class Rule(Protocol):
    """An update rule: a pure function from Φ to a `Step`, which leaves adding the change to its caller.

    It gets Φ in its compute dtype, and gives a change of the same shape, dtype and device, and a 0-dimensional loss.
    What it may be relied on for beyond that, it declares by `groupwise`.
    """

    def __call__(self, phi: Phi, *, lr: float, beta: float, penalty: Penalty) -> Step:
        """Apply the rule once; `phi` is not written to."""
        ...


_Rule = TypeVar("_Rule", bound=Rule)


def groupwise(rule: _Rule) -> _Rule:
    """Declare that a rule steps each group by itself, and that its loss is the sum over groups.

    Then small tensors may be laid side by side along the group axis, and the groups of one tensor spread over
    processes. A rule that does not say so is given each tensor by itself, and whole.

    Examples:
        >>> from gramian.rules import Step, groupwise
        >>> @groupwise
        ... def decay(phi, *, lr, beta, penalty):
        ...     return Step(-lr * beta * phi, beta * phi.square().sum() / 2)
    """
    setattr(rule, "groupwise", True)  # noqa: B010
    return rule


def is_groupwise(rule: Rule) -> bool:
    """Tell whether a rule has declared that groups do not meet in it."""
    return getattr(rule, "groupwise", False) is True


def coordinatewise(rule: _Rule) -> _Rule:
    """Declare that a rule needs all coordinates of vectors for nothing but Gram products.

    Then each process may hold some of the coordinates.
    """
    setattr(rule, "coordinatewise", True)  # noqa: B010
    return rule


def is_coordinatewise(rule: Rule) -> bool:
    """Tell whether a rule has declared that coordinates meet in Gram products alone."""
    return getattr(rule, "coordinatewise", False) is True


def check_lr(lr: float) -> float:
    """Return a learning rate as a float if it is at least zero; infinity is allowed.

    Raises:
        OptionError: If it is negative or NaN.
    """
    value = as_number(lr, "lr")
    if not value >= 0:
        raise OptionError(f"lr must be at least 0; got {lr!r}; try lr=0.1")
    return value
