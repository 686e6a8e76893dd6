"""Update rules as functions from Φ to a change of Φ, and the properties that they declare."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from gramian.penalties import Penalty
from gramian.typing import Phi, Scalar

__all__ = ["Rule", "Step", "coordinatewise", "groupwise", "is_coordinatewise", "is_groupwise"]


@dataclass(frozen=True)
class Step:
    """The result of one application of a rule: the change of Φ, and the loss before the change."""

    change: Phi
    loss: Scalar

    def __repr__(self) -> str:
        return f"Step(change of shape {list(self.change.shape)}, {self.change.dtype})"


@runtime_checkable
class Rule(Protocol):
    """An update rule: a pure function from Φ to a `Step`. The caller adds the change.

    A rule gets Φ in the compute dtype and returns a change of the same shape, dtype and device, and a 0-dimensional
    loss. A built-in rule may get the learning rate as a 0-dimensional tensor on the device of Φ; another rule gets a
    number. Further properties are declared by the decorators `groupwise` and `coordinatewise`.
    """

    def __call__(self, phi: Phi, *, lr: Any, beta: float, penalty: Penalty) -> Step:
        """Apply the rule once; `phi` is not written to."""
        ...


_Rule = TypeVar("_Rule", bound=Rule)


def groupwise(rule: _Rule) -> _Rule:
    """Declare that a rule updates each group independently, and that its loss is the sum over groups.

    Then small tensors are concatenated along the group axis, and the groups of one tensor may be sharded. Without this
    declaration a rule gets each tensor separately and whole.

    Args:
        rule: The rule; it is marked.

    Returns:
        The same rule, so that this can be a decorator.

    Examples:
        >>> from gramian.rules import Step, groupwise
        >>> @groupwise
        ... def decay(phi, *, lr, beta, penalty):
        ...     return Step(-lr * beta * phi, beta * phi.square().sum() / 2)
    """
    setattr(rule, "groupwise", True)  # noqa: B010
    return rule


def is_groupwise(rule: Rule) -> bool:
    """Tell whether a rule is declared groupwise."""
    return getattr(rule, "groupwise", False) is True


def coordinatewise(rule: _Rule) -> _Rule:
    """Declare that a rule combines the coordinates of vectors only in Gram products.

    Then the coordinates of one tensor may be sharded.

    Args:
        rule: The rule; it is marked.

    Returns:
        The same rule, so that this can be a decorator.

    Examples:
        >>> from gramian.rules.base import is_coordinatewise
        >>> from gramian.rules.registry import RULES
        >>> is_coordinatewise(RULES["proximal"])
        True
    """
    setattr(rule, "coordinatewise", True)  # noqa: B010
    return rule


def is_coordinatewise(rule: Rule) -> bool:
    """Tell whether a rule is declared coordinatewise."""
    return getattr(rule, "coordinatewise", False) is True
