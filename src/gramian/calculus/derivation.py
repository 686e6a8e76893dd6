"""The derivation of the gradient as data: each step has a claim, the rule it follows from, and both sides as numbers.

The command `gramian explain`, the documentation and the tests use the same steps.
"""

from collections.abc import Iterator

from gramian.calculus.formulas import formulas
from gramian.calculus.further_steps import FURTHER_STEPS
from gramian.calculus.gradient_steps import gradient_steps
from gramian.calculus.setting import Setting
from gramian.calculus.step import CheckedStep, Step
from gramian.penalties import Penalty

__all__ = ["derive", "steps"]


def steps(penalty: str | Penalty = "l1") -> tuple[Step, ...]:
    """Return the steps of the derivation, with the formulas of a penalty.

    Args:
        penalty: Name or `Penalty`.

    Returns:
        All steps in order, also those that do not apply to every setting.

    Examples:
        >>> [step.claim for step in steps("huber") if step.title == "the derivative of the penalty"]
        ['G_jk = clip(X_jk/0.1, −1, 1)']
    """
    return (*gradient_steps(formulas(penalty)), *FURTHER_STEPS)


def derive(setting: Setting) -> Iterator[CheckedStep]:
    """Check every step of the derivation on numbers.

    Args:
        setting: Sizes, penalty, strength and seed.

    Returns:
        The steps that apply to the setting, with the numbers of both sides.

    Examples:
        >>> all(checked.holds for checked in derive(Setting(5, 2, 3)))
        True
    """
    for step in steps(setting.penalty):
        if step.applies(setting):
            yield CheckedStep(step, *step.sides(setting))
