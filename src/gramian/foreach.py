"""Many tensors in one call: small tensors of the same shape share their products.

A network has hundreds of small weights, and a call for each costs more than its arithmetic. So tensors of the same
Φ-shape and dtype are concatenated along the group axis. This changes results by rounding only, because groups are
independent. Large tensors are computed one by one, because their copy would cost more than a call.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gramian.errors import OptionError
from gramian.frozen import FrozenBasis, FrozenVectors
from gramian.kernels.dispatch import choose
from gramian.layout import Layout, as_phi, from_phi
from gramian.options import check_against_beta, check_beta, check_lr, whole_number
from gramian.penalties import Penalty, as_penalty
from gramian.rules import Rule, as_rule, proximal
from gramian.rules.apply import Operand, admit, apply_, batches, side_by_side
from gramian.rules.registry import check_compatible, check_hard
from gramian.rules.restore import MOST_STEPS, Restoration, free_lengths, until_restored
from gramian.typing import LearningRate, Scalar

__all__ = ["restore_", "step_", "value_and_grad"]

Layouts = Sequence[Layout | str | None]
Against = Sequence[FrozenVectors | None]


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
        layouts: One layout for all tensors, or a sequence with one for each.

    Returns:
        The sum of the losses, a 0-dimensional float32 tensor, or float64 if any tensor is; and the gradients, of the
        shapes and dtypes of the tensors.

    Raises:
        DtypeError, LayoutError: As for `gramian.loss`, with the index of the tensor.
        OptionError: As for `gramian.loss`; and if there are not as many layouts as tensors.

    Cost:
        4·m·l·n² flops for each tensor, and a copy of each tensor with at most 131,072 numbers.

    Examples:
        >>> import torch, gramian
        >>> weights = [torch.randn(64, 8) for _ in range(10)]
        >>> total, grads = gramian.foreach.value_and_grad(weights)
        >>> torch.allclose(grads[3], gramian.value_and_grad(weights[3])[1])
        True
    """
    beta, mu = check_beta(beta), as_penalty(penalty)
    with torch.no_grad():
        layouts = _layouts(tensors, layouts)
        operands = admit(tensors, layouts, lambda shape: mu.check_sizes(*shape[1:]), writable=False)
        grads: list[Tensor] = list(tensors)
        losses: list[Scalar] = []
        for batch in batches(operands, mu):
            phis = [operands[i].phi.detach() for i in batch]
            phi = phis[0] if len(phis) == 1 else side_by_side(phis)
            values, grad = choose(phi, mu).value_and_grad(phi, mu, beta)
            losses.append(values.sum())
            parts = [grad] if len(batch) == 1 else grad.split(phis[0].shape[1], dim=1)
            for i, part in zip(batch, parts, strict=True):
                grads[i] = from_phi(part, tensors[i], layouts[i])
        return _total(losses), grads


def step_(
    tensors: Sequence[Tensor],
    *,
    lr: LearningRate,
    beta: float = 1.0,
    rule: str | Rule = "proximal",
    penalty: str | Penalty = "l1",
    layouts: Layouts | Layout | str | None = None,
    against: Against | None = None,
    against_beta: float | None = None,
) -> Scalar:
    r"""Make one update of each tensor towards orthonormal groups, in place.

    All or nothing: all checks of all tensors, layouts, options and sizes pass before the first tensor is written. With
    a rule or a penalty from outside this package, and with penalties that need eigenvalues, all changes of the call are
    computed before the first is written. With the built-in rules and the other penalties only memory or the device can
    fail after the checks; then large tensors are stepped one after another, by the proximal rule in place, so that no
    copy of all tensors is held.

    Small tensors of the same shape are concatenated if the rule is declared `gramian.rules.groupwise`, as the built-in
    rules are. No two tensors may share memory.

    Args:
        tensors: Each Φ[l, m, n], one group [l, n], or any tensor with a layout; written to; all on one device.
        lr: Learning rate η ≥ 0; infinity is allowed for 'proximal' and 'polyak'. A tensor of one number on a device is
            not read by the host.
        beta: Strength β ≥ 0.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        layouts: One layout for all tensors, or a sequence with one for each.
        against: For each tensor the frozen vectors to which its vectors are kept orthogonal, as in `gramian.step_`, or
            None.
        against_beta: Strength against frozen vectors, by default β; may be infinite.

    Returns:
        The sum of the losses before the step, as in `value_and_grad`, and of those against frozen vectors, as in
        `gramian.step_`.

    Raises:
        DtypeError, LayoutError, OptionError, ShapeError: As for `gramian.step_`, with the index of the tensor; and
            OptionError if there are not as many layouts, or entries of `against`, as tensors, and ShapeError if two
            tensors share memory.

    Cost:
        That of the rule, and a copy of each tensor with at most 131,072 numbers; or a copy of all tensors, if all
        changes are computed before the first is written.

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
    lr, beta, strength = check_lr(lr), check_beta(beta), check_against_beta(against_beta)
    with torch.no_grad():
        check = partial(check_compatible, update, mu, lr=lr)
        operands = admit(tensors, _layouts(tensors, layouts), check, against=_frozen(tensors, against))
        return _total(apply_(operands, lr=lr, beta=beta, rule=update, penalty=mu, against_beta=strength))


def restore_(
    tensors: Sequence[Tensor],
    *,
    penalty: str | Penalty = "l1",
    layouts: Layouts | Layout | str | None = None,
    max_steps: int = MOST_STEPS,
    against: Against | None = None,
) -> Restoration:
    r"""Make the groups of many tensors orthonormal, in place: the hard constraint β = ∞.

    Repeat the proximal rule at η = ∞ (Newton–Schulz, with a bound on the step far from the manifold) until every entry
    of X that the penalty includes is within rounding, or until the steps stop improving, as for groups of deficient
    rank. So the penalty determines the constraint: `L1(diagonal=False)` leaves lengths free, a `TargetGram` prescribes
    its Gram matrix. If lengths are free, vectors are normalised between steps, because the steps then converge
    quadratically, and their lengths are restored at the end.

    Args:
        tensors: As for `step_`, with n ≤ l; written to.
        penalty: Name or `Penalty`, one with a prox.
        layouts: One layout for all tensors, or a sequence with one for each.
        max_steps: Largest number of steps.
        against: For each tensor the frozen vectors to which its vectors become orthogonal too, or None. Before every
            step they are projected on the complement of the frozen vectors, which the steps do not leave.

    Returns:
        The loss before, the number of steps, and why they ended; `converged` tells whether all groups are within
        rounding. For tensors of several dtypes, the largest number of steps and the first end other than convergence.

    Raises:
        DtypeError, LayoutError, OptionError, ShapeError: As for `step_`; and if the penalty has no prox, or n > l - k
            for k dimensions of frozen vectors. Nothing is written then.

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
    mu, max_steps = as_penalty(penalty), whole_number(max_steps, name="max_steps")
    with torch.no_grad():
        check = partial(check_hard, proximal, mu)
        operands = admit(tensors, _layouts(tensors, layouts), check, against=_frozen(tensors, against), hard=True)
        by_dtype: dict[torch.dtype, list[Operand]] = {}
        for operand in operands:
            by_dtype.setdefault(operand.phi.dtype, []).append(operand)
        results = [_restore(batch, mu, max_steps) for batch in by_dtype.values()]
        ends = [result.stopped for result in results if not result.converged]
        steps = max((result.steps for result in results), default=0)
        return Restoration(_total([result.loss for result in results]), steps, ends[0] if ends else "converged")


def _restore(operands: list[Operand], penalty: Penalty, max_steps: int) -> Restoration:
    """Restore tensors of one dtype."""
    protected = [operand for operand in operands if operand.frozen is not None]

    def current(some: list[Operand], *, within: bool) -> list[Operand]:
        # Where Φ is a copy of the tensor, the step before has not changed it.
        fresh = [operand._replace(phi=as_phi(operand.tensor, operand.layout)) for operand in some]
        return [operand._replace(frozen=None) for operand in fresh] if within else fresh

    def project() -> list[Scalar]:
        options: dict[str, Any] = {"lr": math.inf, "beta": 0.0, "rule": proximal, "penalty": penalty}
        return apply_(current(protected, within=False), **options, against_beta=math.inf)

    before = project()
    with free_lengths(operands, penalty) as normalize:

        def step(excess: Penalty) -> Scalar:
            project()  # what rounding adds grows by at most 3/2 in a step
            options: dict[str, Any] = {"lr": math.inf, "beta": 1.0, "rule": proximal, "penalty": excess}
            loss = _total(apply_(current(operands, within=True), **options))
            normalize()
            return loss

        length = max(operand.phi.shape[0] for operand in operands)
        done = until_restored(step, penalty, dtype=operands[0].phi.dtype, length=length, max_steps=max_steps)
    return replace(done, loss=_total([*before, done.loss]))


def _layouts(tensors: Sequence[Tensor], layouts: Layouts | Layout | str | None) -> Layouts:
    if isinstance(tensors, Tensor):
        raise OptionError("tensors must be a sequence of tensors; got a Tensor; try [phi]")
    count = len(tensors)
    if layouts is None or isinstance(layouts, (str, Layout)):
        return [layouts] * count
    if len(layouts) != count:
        raise OptionError(
            f"layouts must be one layout for all tensors or one for each; got {len(layouts)} for {count} tensors"
        )
    return layouts


def _frozen(tensors: Sequence[Tensor], against: Against | None) -> Against | None:
    if against is None:
        return None
    if isinstance(against, (Tensor, FrozenBasis)) or len(against) != len(tensors):  # pyright: ignore[reportUnnecessaryIsInstance]
        got = "one" if isinstance(against, (Tensor, FrozenBasis)) else f"{len(against)}"  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            f"against must be a sequence with frozen vectors or None for each tensor; got {got} for {len(tensors)} "
            "tensors"
        )
    return against


def _total(losses: list[Scalar]) -> Scalar:
    if not losses:
        return torch.zeros(())
    dtype = torch.float64 if any(loss.dtype == torch.float64 for loss in losses) else torch.float32
    return torch.stack([loss.to(losses[0].device, dtype) for loss in losses]).sum()
