"""One update of one parameter, in place, through a layout."""

from functools import partial

import torch
from torch import Tensor

from gramian.frozen import FrozenVectors
from gramian.layout import Layout
from gramian.options import check_against_beta, check_beta, check_lr
from gramian.penalties import Penalty, as_penalty
from gramian.rules.apply import admit, apply_
from gramian.rules.base import Rule
from gramian.rules.registry import as_rule, check_compatible
from gramian.typing import LearningRate, Scalar

__all__ = ["step_"]


def step_(
    phi: Tensor,
    *,
    lr: LearningRate,
    beta: float = 1.0,
    rule: str | Rule = "proximal",
    penalty: str | Penalty = "l1",
    layout: Layout | str | None = None,
    against: FrozenVectors | None = None,
    against_beta: float | None = None,
) -> Scalar:
    r"""Make one update towards orthonormal groups, in place.

    Call it after the step of the optimiser, with the same learning rate, as AdamW applies weight decay. Then the
    penalty is independent of moment estimates and of loss scaling. A group with a NaN or an infinite entry becomes NaN;
    other groups are not affected. A finite group whose Gram matrix overflows is halved by 'proximal' and not changed by
    the other rules; the loss is then infinite or NaN.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout; written to.
        lr: Learning rate η ≥ 0; infinity is allowed for 'proximal' and 'polyak'. A tensor of one number on a device is
            not read by the host; its number is then not checked.
        beta: Strength β ≥ 0. With l1, inner products smaller than 4ηβ converge to zero quadratically.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        layout: Which axes are vector, group and member.
        against: Frozen vectors to which the vectors of every group are kept orthogonal too: a tensor in the layout of
            `phi` with any number of vectors, several of these, or a `gramian.frozen.FrozenBasis`, which computes their
            orthonormal basis once instead of at every step. The step against them, by the prox of Σ_jk |q_jᵀφ_k|, comes
            before the rule; inner products that it sets to zero stay zero under the rule. See `gramian.rules.against`.
        against_beta: Strength against frozen vectors, by default β; infinity projects. It is the largest gradient of a
            task along one q_j for which that inner product stays zero. With `beta=0` only this step is made.

    Returns:
        The loss before the step, a 0-dimensional tensor. With frozen vectors, the sum of the loss against them before
        the step and of the loss within groups after the step against them.

    Raises:
        DtypeError, LayoutError: As for `gramian.loss`; DtypeError also for a tensor without memory, or an inference
            tensor outside inference mode.
        OptionError: If `lr` is negative or NaN, β is negative or not finite, there is no such rule or penalty, or the
            rule does not accept the penalty.
        ShapeError: If the rule is 'polyak' and n > l, or entries of `phi` share memory.
        DataError, DtypeError, LayoutError, OptionError, ShapeError: If the frozen vectors are invalid, as for
            `gramian.frozen.FrozenBasis`, or do not fit `phi`.

    Cost:
        That of the rule, and 4·m·l·k·n flops for k frozen vectors. The 16-bit formats are stepped in float32 and
        rounded once.

    Examples:
        >>> import torch, gramian
        >>> weight = torch.nn.Linear(64, 32).weight
        >>> for _ in range(20):
        ...     before = gramian.step_(weight, lr=0.1, layout="o i -> i () o")  # rows
        >>> gramian.residual(weight, layout="o i -> i () o").abs().max().item() < 1e-6
        True
    """
    update, mu = as_rule(rule), as_penalty(penalty)
    lr, beta, strength = check_lr(lr), check_beta(beta), check_against_beta(against_beta)
    with torch.no_grad():
        check = partial(check_compatible, update, mu, lr=lr)
        operands = admit([phi], [layout], check, against=[against], numbered=False)
        return apply_(operands, lr=lr, beta=beta, rule=update, penalty=mu, against_beta=strength)[0]
