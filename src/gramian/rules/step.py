"""One update of one parameter, in place, through a layout."""

from functools import partial

import torch
from torch import Tensor

from gramian.layout import Layout
from gramian.options import check_beta, check_lr
from gramian.penalties import Penalty, as_penalty
from gramian.rules.apply import admit, apply_
from gramian.rules.base import Rule
from gramian.rules.registry import as_rule, check_compatible
from gramian.typing import Scalar

__all__ = ["step_"]


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

    Call it after the optimiser's own step, with the same learning rate, as AdamW applies weight decay: then the penalty
    is independent of moment estimates and of loss scaling. A group with a NaN or an infinite entry becomes NaN; other
    groups are not affected. A finite group whose Gram matrix overflows is halved by 'proximal' and not changed by the
    other rules; the loss is then infinite or NaN.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout; written to.
        lr: Learning rate η ≥ 0; infinity is allowed for 'proximal' and 'polyak'.
        beta: Strength β ≥ 0. With l1, inner products smaller than 4ηβ converge to zero quadratically.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        layout: Which axes are vector, group and member.

    Returns:
        The loss before the step, a 0-dimensional tensor.

    Raises:
        DtypeError, LayoutError: As for `gramian.loss`; DtypeError also for a tensor without memory, or one of inference
            mode outside of it.
        OptionError: If `lr` is negative or NaN, β is negative or not finite, there is no such rule or penalty, or the
            rule does not accept the penalty.
        ShapeError: If the rule is 'polyak' and n > l, or entries of `phi` share memory.

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
        operands = admit([phi], [layout], partial(check_compatible, update, mu, lr=lr), numbered=False)
        return apply_(operands, lr=lr, beta=beta, rule=update, penalty=mu)[0]
