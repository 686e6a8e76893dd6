"""Many tensors at once: small ones of the same shape share their products.

A network has hundreds of small weights, and a call for each costs more than its arithmetic. Here tensors of the same
Φ-shape and dtype are laid side by side along the group axis, which changes no number but by rounding, for groups do
not meet. Large tensors go one by one: to copy them would cost more than a call.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from gramian import kernels
from gramian.errors import GramianError, OptionError
from gramian.layout import Layout, as_phi, from_phi
from gramian.objective import check_beta
from gramian.objective import value_and_grad as one_value_and_grad
from gramian.penalties import Penalty, as_penalty
from gramian.rules import Rule, as_rule, check_lr, is_groupwise
from gramian.rules.apply import admit, apply_
from gramian.rules.batches import batches, side_by_side
from gramian.rules.writable import check_disjoint
from gramian.typing import Scalar

__all__ = ["step_", "value_and_grad"]

Layouts = Sequence[Layout | str | None]

_Admitted = TypeVar("_Admitted")


def value_and_grad(
    tensors: Sequence[Tensor],
    *,
    beta: float = 1.0,
    penalty: str | Penalty = "l1",
    layouts: Layouts | Layout | str | None = None,
) -> tuple[Scalar, list[Tensor]]:
    r"""Compute the sum of the losses of many tensors, and the gradient of each, without an autograd graph.

    Args:
        tensors: Each Φ[l, m, n], one group [l, n], or any tensor with a layout; all on one device.
        beta: Strength β ≥ 0.
        penalty: Name or `Penalty`.
        layouts: One layout for all, or a sequence of one for each.

    Returns:
        The sum of the losses, a 0-dimensional float32 tensor, or float64 if any tensor is; and the gradients, of the
        shapes and dtypes of the tensors.

    Raises:
        DtypeError, LayoutError: As for `gramian.loss`, saying which tensor.
        OptionError: As for `gramian.loss`; and if there are not as many layouts as tensors.

    Cost:
        4·m·l·n² flops for each, and a copy of those with at most 131,072 numbers.

    Examples:
        >>> import torch, gramian
        >>> weights = [torch.randn(64, 8) for _ in range(10)]
        >>> total, grads = gramian.foreach.value_and_grad(weights)
        >>> torch.allclose(grads[3], gramian.value_and_grad(weights[3])[1])
        True
    """
    beta, rule = check_beta(beta), as_penalty(penalty)
    with torch.no_grad():
        each = _layouts(tensors, layouts)
        phis = _for_each(tensors, each, as_phi)
        for phi in phis:
            rule.check_sizes(phi.shape[1], phi.shape[2])
        grads: list[Tensor] = list(tensors)
        losses: list[Scalar] = []
        for batch in batches(phis, rule):
            if len(batch) == 1:
                (i,) = batch
                loss, grads[i] = one_value_and_grad(phis[i], beta=beta, penalty=rule)
                grads[i] = from_phi(grads[i], tensors[i], each[i])
                losses.append(loss)
                continue
            together = side_by_side([phis[i] for i in batch])
            values, grad = kernels.choose(together, rule).value_and_grad(together, rule, beta)
            losses.append(values.sum())
            for i, part in zip(batch, grad.split(phis[batch[0]].shape[1], dim=1), strict=True):
                grads[i] = from_phi(part, tensors[i], each[i])
        return _total(losses), grads


def step_(
    tensors: Sequence[Tensor],
    *,
    lr: float,
    beta: float = 1.0,
    rule: str | Rule = "proximal",
    penalty: str | Penalty = "l1",
    layouts: Layouts | Layout | str | None = None,
) -> Scalar:
    r"""Make one update of each of many tensors towards orthonormal groups, in place.

    Nothing is written before all tensors, layouts and options have been checked. No two of the tensors may share
    memory.

    Args:
        tensors: Each Φ[l, m, n], one group [l, n], or any tensor with a layout; written to; all on one device.
        lr: Learning rate η ≥ 0; infinite is allowed for 'proximal' and 'polyak'.
        beta: Strength β ≥ 0.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        layouts: One layout for all, or a sequence of one for each.

    Returns:
        The sum of the losses before the step, as `value_and_grad` gives it.

    Raises:
        DtypeError, LayoutError, OptionError, ShapeError: As for `gramian.step_`, saying which tensor; and OptionError
            if there are not as many layouts as tensors.

    Cost:
        That of the rule, and a copy of each tensor with at most 131,072 numbers.

    Examples:
        >>> import torch, gramian
        >>> model = torch.nn.Sequential(*[torch.nn.Linear(32, 16) for _ in range(20)])
        >>> weights = [layer.weight for layer in model]
        >>> for _ in range(20):
        ...     before = gramian.foreach.step_(weights, lr=0.1, layouts="o i -> i () o")
        >>> before.item() < 1e-2
        True
    """
    update, mu = as_rule(rule), as_penalty(penalty)
    lr, beta = check_lr(lr), check_beta(beta)
    with torch.no_grad():
        each = _layouts(tensors, layouts)
        operands = _for_each(tensors, each, lambda *pair: admit(*pair, rule=update, penalty=mu, lr=lr))
        check_disjoint(tensors)
        together = (
            batches([operand.phi for operand in operands], mu)
            if is_groupwise(update)
            else ([i] for i in range(len(operands)))
        )
        chosen = [[operands[i] for i in batch] for batch in together]
        return _total(apply_(chosen, lr=lr, beta=beta, rule=update, penalty=mu))


def _layouts(tensors: Sequence[Tensor], layouts: Layouts | Layout | str | None) -> Layouts:
    if isinstance(tensors, Tensor):
        raise OptionError("tensors must be a sequence of tensors; got a Tensor; try [phi]")
    count = len(tensors)
    if layouts is None or isinstance(layouts, (str, Layout)):
        return [layouts] * count
    if len(layouts) != count:
        raise OptionError(
            f"there must be one layout for all tensors or one for each; got {len(layouts)} for {count} tensors"
        )
    return layouts


def _for_each(tensors: Sequence[Tensor], layouts: Layouts, door: Callable[[Tensor, Any], _Admitted]) -> list[_Admitted]:
    """Lead each tensor through a door, whose errors then say which."""
    admitted: list[_Admitted] = []
    for i, pair in enumerate(zip(tensors, layouts, strict=True)):
        try:
            admitted.append(door(*pair))
        except GramianError as error:
            raise type(error)(f"tensor {i}: {error}") from None
    return admitted


def _total(losses: list[Scalar]) -> Scalar:
    if not losses:
        return torch.zeros(())
    dtype = torch.float64 if any(loss.dtype == torch.float64 for loss in losses) else torch.float32
    return torch.stack([loss.to(losses[0].device, dtype) for loss in losses]).sum()
