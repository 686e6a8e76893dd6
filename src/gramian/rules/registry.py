"""The update rules by name, and which penalties and sizes each of them accepts."""

from collections.abc import Sequence

import torch

from gramian.errors import OptionError, ShapeError
from gramian.penalties import Penalty
from gramian.rules.base import Rule
from gramian.rules.gradient import check_finite_lr, check_tall, polyak, subgradient
from gramian.rules.prox import proximal
from gramian.typing import LearningRate

__all__ = ["RULES", "as_rule", "check_compatible", "check_hard"]

RULES: dict[str, Rule] = {"proximal": proximal, "polyak": polyak, "subgradient": subgradient}
"""The rules that have a name."""


def as_rule(rule: str | Rule) -> Rule:
    """Turn a name or a `Rule` into a `Rule`.

    Args:
        rule: Name or `Rule`.

    Returns:
        The rule.

    Raises:
        OptionError: If there is no rule of that name, or the value is neither a name nor a function.

    Examples:
        >>> from gramian.rules import as_rule, polyak
        >>> as_rule("polyak") is polyak
        True
    """
    if callable(rule):
        return rule
    if not isinstance(rule, str) or rule not in RULES:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"rule must be one of {', '.join(map(repr, RULES))} or a function; got {rule!r}")
    return RULES[rule]


def check_compatible(
    rule: Rule, penalty: Penalty, shape: Sequence[int] | None = None, *, lr: LearningRate = 0.0
) -> None:
    """Check that a rule accepts a penalty, a learning rate and Φ of a shape (l, m, n).

    Raises:
        OptionError: If the rule is proximal and the penalty has no prox, or the rule is subgradient and `lr` is
            infinite.
        ShapeError: If the rule is polyak and n > l, or the penalty has parameters for groups of other sizes.
    """
    if rule is proximal and not penalty.has_prox:
        zero = torch.zeros((), device="cpu")
        penalty.prox_residual(zero[None, None], zero)  # raises the penalty's own reason and remedy
        raise OptionError(f"the proximal rule needs a penalty with a prox; got {penalty!r}; try rule='polyak'")
    if rule is subgradient:
        check_finite_lr(lr)
    if shape is not None:
        length, m, n = shape
        if rule is polyak:
            check_tall(length, n)
        penalty.check_sizes(m, n)


def check_hard(rule: Rule, penalty: Penalty, shape: Sequence[int] | None = None) -> None:
    """Check that a hard constraint, β = ∞, is possible with a rule, a penalty and Φ of a shape (l, m, n).

    Raises:
        OptionError: If the rule is not the proximal one, or the penalty has no prox.
        ShapeError: If n > l, or the penalty has parameters for groups of other sizes.
    """
    if rule is not proximal:
        name = getattr(rule, "__name__", type(rule).__name__)
        raise OptionError(f"a hard constraint needs the proximal rule; got {name}; try a finite beta")
    check_compatible(rule, penalty, shape)
    if shape is not None and shape[2] > shape[0]:
        raise ShapeError(
            f"a hard constraint needs groups of n <= l vectors, because others cannot be orthonormal; got "
            f"n = {shape[2]}, l = {shape[0]}; try a finite beta, or a layout with smaller groups"
        )
