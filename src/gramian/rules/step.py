"""One update of a parameter, in place, through a layout."""

import torch
from torch import Tensor

from gramian.errors import OptionError
from gramian.layout import Layout
from gramian.objective import check_beta
from gramian.penalties import Penalty, as_penalty
from gramian.rules.apply import admit, apply_, check_together
from gramian.rules.base import Rule, check_lr
from gramian.rules.gradient import polyak, subgradient
from gramian.rules.prox import proximal
from gramian.typing import Scalar

__all__ = ["RULES", "as_rule", "step_"]

RULES: dict[str, Rule] = {"proximal": proximal, "polyak": polyak, "subgradient": subgradient}
"""The rules that have a name."""


def step_(
    phi: Tensor,
    *,
    lr: float,
    beta: float = 1.0,
    rule: str | Rule = "proximal",
    penalty: str | Penalty = "l1",
    layout: Layout | str | None = None,
) -> Scalar:
    r"""Make one update towards orthonormal groups, in place.

    Use it after an optimiser's own step, with the same learning rate, as AdamW does with weight decay: the penalty
    then passes through no moment estimate and no loss scale. A group with a NaN or an infinite entry becomes NaN;
    other groups are untouched by it.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout; written to.
        lr: Learning rate η ≥ 0; infinite is allowed for 'proximal' and 'polyak'.
        beta: Strength β ≥ 0. For l1, inner products closer to zero than 4ηβ go to zero quadratically.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        layout: Which axes are vector, group and member.

    Returns:
        The loss before the step, a 0-dimensional tensor.

    Raises:
        DtypeError, LayoutError: As for `gramian.loss`.
        OptionError: If `lr` is negative or NaN, β is negative or not finite, or there is no such rule or penalty.
        ShapeError: If the rule is 'polyak' and n > l.

    Cost:
        That of the rule. The 16-bit formats are stepped in float32 and rounded once.

    Examples:
        >>> import torch, gramian
        >>> weight = torch.nn.Linear(64, 32).weight
        >>> for _ in range(20):
        ...     before = gramian.step_(weight, lr=0.1, layout="o i -> i () o")  # rows
        >>> gramian.residual(weight, layout="o i -> i () o").abs().max().item() < 1e-6
        True
    """
    update, mu = as_rule(rule), as_penalty(penalty)
    lr, beta = check_lr(lr), check_beta(beta)
    with torch.no_grad():
        operand = admit(phi, layout)
        check_together(update, mu, operand.phi.shape, lr=lr)
        return apply_([[operand]], lr=lr, beta=beta, rule=update, penalty=mu)[0]


def as_rule(rule: str | Rule) -> Rule:
    """Turn a name or a `Rule` into a `Rule`.

    Raises:
        OptionError: If there is no rule of that name, or it is no function.
    """
    if callable(rule):
        return rule
    if not isinstance(rule, str) or rule not in RULES:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"rule must be one of {', '.join(map(repr, RULES))} or a function; got {rule!r}")
    return RULES[rule]
