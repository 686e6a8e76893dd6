"""Many tensors at once: small ones of the same shape share their products.

A network has hundreds of small weights, and a call for each costs more than its arithmetic. Here tensors of the same
Φ-shape and dtype are laid side by side along the group axis, which changes no number but by rounding, for groups do
not meet. Large tensors go one by one: to copy them would cost more than a call.
"""

import math
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
from gramian.rules import Rule, as_rule, check_lr, is_groupwise, proximal
from gramian.rules.apply import Operand, admit, apply_, check_hard, check_together
from gramian.rules.batches import batches, side_by_side
from gramian.rules.lengths import free_lengths
from gramian.rules.restore import MOST_STEPS, Restoration, level, until_restored
from gramian.rules.writable import check_disjoint
from gramian.typing import Scalar

__all__ = ["restore_", "step_", "value_and_grad"]

Layouts = Sequence[Layout | str | None]

Shape = tuple[int, int, int]

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
        _check_shapes(phis, lambda shape: rule.check_sizes(shape[1], shape[2]))
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

    All or nothing: every check of every tensor, layout, option and size is made before the first tensor is written.
    With a rule or a penalty that is not of this package, and with penalties that take eigenvalues, all changes of the
    call exist before the first is written. With the built-in rules and the other penalties nothing is left after the
    checks that could fail but memory or the device; there large tensors are stepped one after another, and by the
    proximal rule in place, so that no copy of all is held.

    Small tensors alike are laid side by side if the rule has declared that groups do not meet in it, as the built-in
    ones have; see `gramian.rules.groupwise`. No two of the tensors may share memory.

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
        That of the rule, and a copy of each tensor with at most 131,072 numbers; of all tensors, where all changes
        exist before the first is written.

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
        operands = _admit(tensors, layouts, lambda shape: check_together(update, mu, shape, lr=lr))
        return _step(operands, lr=lr, beta=beta, rule=update, penalty=mu)


def restore_(
    tensors: Sequence[Tensor],
    *,
    penalty: str | Penalty = "l1",
    layouts: Layouts | Layout | str | None = None,
    max_steps: int = MOST_STEPS,
) -> Restoration:
    r"""Make the groups of many tensors orthonormal at once, in place: the hard constraint β = ∞.

    Steps of the proximal rule at η = ∞ (Newton–Schulz, far away with a guard) are made until every entry of X that the
    penalty sees is within rounding, or they get no nearer, as with groups of too low a rank. So the penalty says what
    is constrained: `L1(diagonal=False)` leaves lengths free, a `Target` leads to its Gram matrix. Where lengths are
    free, vectors are of length 1 on the way, for which the steps converge quadratically, and get their lengths back.

    Args:
        tensors: As for `step_`, with n ≤ l; written to.
        penalty: Name or `Penalty`, one with a shrink.
        layouts: One layout for all, or a sequence of one for each.
        max_steps: Stop after as many steps in any case.

    Returns:
        The loss before, how many steps were made, and why they ended; `converged` says whether all is within rounding.
        Of tensors of several dtypes, the most steps and the first end that is no convergence.

    Raises:
        DtypeError, LayoutError, OptionError, ShapeError: As for `step_`; and if the penalty has no shrink or n > l.
            Nothing is written then.

    Cost:
        4·m·l·n² flops for each tensor and step: two or three near the manifold, about 20 from a random start.

    Examples:
        >>> import torch, gramian
        >>> weights = [torch.randn(64, 16), torch.randn(32, 4, 8)]
        >>> gramian.foreach.restore_(weights).converged
        True
        >>> gramian.residual(weights[1]).abs().max().item() < 1e-5
        True
    """
    mu = as_penalty(penalty)
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"max_steps must be an integer of at least 1; got {max_steps!r}; try max_steps={MOST_STEPS}")
    with torch.no_grad():
        operands = _admit(tensors, layouts, lambda shape: check_hard(proximal, mu, shape))
        alike: dict[torch.dtype, list[Operand]] = {}
        for operand in operands:
            alike.setdefault(operand.phi.dtype, []).append(operand)
        done: list[Restoration] = []
        for dtype, some in alike.items():
            rounding = level(dtype, max(operand.phi.shape[0] for operand in some))

            with free_lengths(some, mu) as set_lengths:

                def step(excess: Penalty, some: list[Operand] = some, end: Callable[[], None] = set_lengths) -> Scalar:
                    # Where Φ is a copy of the tensor, the last step has not changed it.
                    current = [each._replace(phi=as_phi(each.tensor, each.layout)) for each in some]
                    loss = _step(current, lr=math.inf, beta=1.0, rule=proximal, penalty=excess)
                    end()
                    return loss

                done.append(until_restored(step, mu, rounding=rounding, max_steps=max_steps))
        ends = [each.stopped for each in done if not each.converged]
        steps = max((each.steps for each in done), default=0)
        return Restoration(_total([each.loss for each in done]), steps, ends[0] if ends else "converged")


def _admit(
    tensors: Sequence[Tensor], layouts: Layouts | Layout | str | None, check: Callable[[Shape], None]
) -> list[Operand]:
    """Make every check of tensors that are to be written to; each Φ-shape is checked once."""
    operands = _for_each(tensors, _layouts(tensors, layouts), admit)
    _check_shapes([operand.phi for operand in operands], check)
    check_disjoint(tensors)
    return operands


def _step(operands: Sequence[Operand], *, lr: float, beta: float, rule: Rule, penalty: Penalty) -> Scalar:
    """Step what was admitted; small ones side by side, if the rule has declared that groups do not meet."""
    alone = ([i] for i in range(len(operands)))
    together = batches([operand.phi for operand in operands], penalty) if is_groupwise(rule) else alone
    chosen = [[operands[i] for i in batch] for batch in together]
    return _total(apply_(chosen, lr=lr, beta=beta, rule=rule, penalty=penalty))


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
    return [_named(i, door, *pair) for i, pair in enumerate(zip(tensors, layouts, strict=True))]


def _named(i: int, door: Callable[..., _Admitted], *given: Any) -> _Admitted:
    try:
        return door(*given)
    except GramianError as error:
        raise type(error)(f"tensor {i}: {error}") from None


def _check_shapes(phis: Sequence[Tensor], check: Callable[[Shape], None]) -> None:
    """Make a check of each Φ-shape once; its error says for which tensor."""
    checked: set[torch.Size] = set()
    for i, phi in enumerate(phis):
        if phi.shape not in checked:
            checked.add(phi.shape)
            length, m, n = phi.shape
            _named(i, check, (length, m, n))


def _total(losses: list[Scalar]) -> Scalar:
    if not losses:
        return torch.zeros(())
    dtype = torch.float64 if any(loss.dtype == torch.float64 for loss in losses) else torch.float32
    return torch.stack([loss.to(losses[0].device, dtype) for loss in losses]).sum()
