"""The strength β over the course of a training: a number, a function of the step, or a scheduler of PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from gramian.errors import OptionError
from gramian.options import check_beta, real_number, whole_number

__all__ = ["Beta", "Scheduler", "WarmUp", "check_strength", "strength_at"]


@runtime_checkable
class Scheduler(Protocol):
    """An object whose last value is a strength, as the schedulers of `torch.optim.lr_scheduler` have one."""

    def get_last_lr(self) -> Any:
        """Return the values of the parameter groups; β is the first."""
        ...


Beta = float | Callable[[int], float] | Scheduler
"""A number, a function of the number of updates so far, or a scheduler."""


@dataclass(frozen=True)
class WarmUp:
    """A strength that rises linearly from β/steps to β in a number of updates, and stays there.

    Args:
        beta: The final strength β.
        steps: Number of updates until it is reached.

    Examples:
        >>> warm_up = WarmUp(2.0, steps=4)
        >>> [warm_up(step) for step in range(6)]
        [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    """

    beta: float
    steps: int

    def __post_init__(self) -> None:
        real_number(self.beta, name="beta", zero=True)
        whole_number(self.steps, name="steps")

    def __call__(self, step: int) -> float:
        """Return the strength of an update.

        Args:
            step: Number of updates before it.
        """
        return self.beta * min(1.0, (step + 1) / self.steps)


def check_strength(beta: Beta) -> Beta:
    """Check a strength: convert a number to float, or check the first value of a function or a scheduler.

    Raises:
        OptionError: If it is not a strength, is negative, or varies and is infinite.
    """
    if isinstance(beta, Scheduler) or callable(beta):
        strength_at(beta, 0)
        return beta
    return check_beta(beta, infinite=True)


def strength_at(beta: Beta, step: int) -> float:
    """Return the strength of an update.

    Args:
        beta: A strength that `check_strength` has returned.
        step: Number of updates before it.

    Raises:
        OptionError: If a function or a scheduler returns a number that is not a finite strength.
    """
    if isinstance(beta, (int, float)):
        return beta
    value = beta.get_last_lr()[0] if isinstance(beta, Scheduler) else beta(step)
    try:
        return check_beta(value)
    except OptionError as error:
        raise OptionError(f"a strength that varies must be finite at every step; at step {step}, {error}") from None
