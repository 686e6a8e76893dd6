"""A step of the derivation: a claim, the rule that it follows from, and both sides of the claim as numbers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from gramian.calculus.plain import plain_formula
from gramian.calculus.setting import Setting

__all__ = ["QUOTIENT", "CheckedStep", "Step"]

ROUNDING, QUOTIENT = 1e-10, 1e-4
"""Relative errors of rounding, and of a difference quotient."""


@dataclass(frozen=True)
class Step:
    r"""One step of the derivation. Text may have formulas in LaTeX, between dollar signs.

    Attributes:
        rule: Name of the rule that the step applies; "Mistake" for a claim that the numbers refute.
        title: What the step obtains, in a few words.
        latex: The claim, in LaTeX.
        because: Why the claim follows from the rule; for a mistake, why it is wrong.
        left: How the numbers of the left-hand side are computed.
        right: How those of the right-hand side are computed.
        sides: Computes both.
        relation: '=', '≤', or '≠' for a mistake.
        tolerance: Relative error that is allowed.
        applies: Tells whether the step is valid for a setting.
    """

    rule: str
    title: str
    latex: str
    because: str
    left: str
    right: str
    sides: Callable[[Setting], tuple[Tensor, Tensor]]
    relation: str = "="
    tolerance: float = ROUNDING
    applies: Callable[[Setting], bool] = lambda setting: True  # noqa: ARG005

    @property
    def claim(self) -> str:
        """The claim as one line of Unicode."""
        return plain_formula(self.latex)

    @property
    def is_mistake(self) -> bool:
        """Whether the claim is a common mistake, which the numbers refute."""
        return self.relation == "≠"

    @property
    def exact(self) -> bool:
        """Whether the sides may differ by rounding only, because neither of them is a difference quotient."""
        return self.tolerance <= ROUNDING


@dataclass(frozen=True, eq=False)
class CheckedStep:
    """A step with the numbers of both sides.

    Attributes:
        step: The step.
        lhs: The left-hand side.
        rhs: The right-hand side.
    """

    step: Step
    lhs: Tensor = field(repr=False)
    rhs: Tensor = field(repr=False)

    @property
    def difference(self) -> float:
        """Largest absolute difference between entries of both sides."""
        return (self.lhs - self.rhs).abs().max().item()

    @property
    def holds(self) -> bool:
        """Whether the numbers satisfy the relation; for a mistake, whether they refute it."""
        scale = 1 + max(self.lhs.abs().max().item(), self.rhs.abs().max().item())
        if self.step.relation == "≤":
            return bool((self.lhs <= self.rhs + self.step.tolerance * scale).all())
        equal = self.difference <= self.step.tolerance * scale
        return not equal if self.step.is_mistake else equal
