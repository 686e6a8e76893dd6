"""The one place where a change is written into a tensor: check everything, compute the changes, write them.

`admit` checks a tensor by itself: its dtype and layout, and that it can be written to. `check_together` checks that
rule, penalty and sizes go together. `apply_` computes and writes. What it promises to those who asked both before:

- Every check of every tensor is made before the first of them is written.
- Where code of somebody else takes part, a rule or a penalty that is not of this package, or an eigendecomposition,
  nothing is written unless all changes of the call exist. That costs a copy of all tensors.
- Where nothing can go wrong any more but memory or the device, tensors are computed and written one after another, so
  that only one change is held; and the proximal rule writes group after group while it computes (`proximal_`), so that
  hardly any is. These are the built-in rules with penalties of plain arithmetic.

`put_` writes a value that was computed elsewhere: a part that came back from another process, or of a shuffled copy.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gramian import kernels
from gramian.errors import OptionError, ShapeError
from gramian.kernels import dense
from gramian.layout import Layout, as_phi, from_phi
from gramian.penalties import (
    L1,
    Coherence,
    Cosine,
    Frobenius,
    Huber,
    Penalty,
    Scaled,
    SquaredFrobenius,
    Sum,
    Target,
    Weighted,
)
from gramian.rules.base import Rule, Step, check_lr
from gramian.rules.batches import side_by_side
from gramian.rules.gradient import check_finite, check_tall, polyak, subgradient
from gramian.rules.prox import proximal, proximal_
from gramian.rules.restore import Excess
from gramian.rules.writable import check_writable
from gramian.typing import Phi, Scalar

__all__ = ["Operand", "admit", "apply_", "check_hard", "check_together", "put_"]

_ARITHMETIC = frozenset((L1, Huber, SquaredFrobenius, Frobenius, Coherence))
"""Penalties that cannot fail. A subclass is none of them: it is somebody's code."""


class Operand(NamedTuple):
    """A tensor that passed every check, and Φ of it: a view where its strides allow one."""

    tensor: Tensor
    layout: Layout | str | None
    phi: Phi


def check_together(rule: Rule, penalty: Penalty, shape: Sequence[int] | None = None, *, lr: float = 0.0) -> None:
    """Refuse a rule and a penalty that cannot go together, or not for Φ of this shape (l, m, n).

    Raises:
        OptionError: If the rule is proximal and the penalty has no shrink, or subgradient and `lr` is infinite.
        ShapeError: If the rule is polyak and n > l, or the penalty has parameters for groups of other sizes.
    """
    if rule is proximal and not penalty.has_shrink:
        penalty.shrink(
            torch.zeros(1, 1, device="cpu"), torch.zeros((), device="cpu")
        )  # it says itself why it has none, and what to try
        raise OptionError(f"the proximal rule needs a penalty with a shrink; got {penalty!r}; try rule='polyak'")
    if rule is subgradient:
        check_finite(lr)
    if shape is not None:
        length, m, n = shape
        if rule is polyak:
            check_tall(length, n)
        penalty.check_sizes(m, n)


def check_hard(rule: Rule, penalty: Penalty, shape: Sequence[int] | None = None) -> None:
    """Refuse what no hard constraint, β = ∞, can be: another rule, a penalty without a shrink, groups of n > l vectors.

    Raises:
        OptionError: If the rule is not the proximal one, or the penalty has no shrink.
        ShapeError: If n > l, or the penalty has parameters for groups of other sizes.
    """
    if rule is not proximal:
        name = getattr(rule, "__name__", type(rule).__name__)
        raise OptionError(f"a hard constraint needs the proximal rule; got {name}; try a finite beta")
    check_together(rule, penalty, shape)
    if shape is not None and shape[2] > shape[0]:
        raise ShapeError(
            f"a hard constraint needs groups of n <= l vectors, which alone can be orthonormal; got n = {shape[2]}, "
            f"l = {shape[0]}; try a finite beta, or a layout with smaller groups"
        )


def admit(tensor: Tensor, layout: Layout | str | None) -> Operand:
    """Check one tensor that is to be stepped, by itself.

    Raises:
        DtypeError, LayoutError: As for `gramian.layout.as_phi`.
        DtypeError, ShapeError: If it cannot be written to; see `check_writable`.
    """
    phi = as_phi(tensor, layout)
    check_writable(tensor)
    return Operand(tensor, layout, phi)


def apply_(
    batches: Iterable[Sequence[Operand]], *, lr: float, beta: float, rule: Rule, penalty: Penalty
) -> list[Scalar]:
    """Compute one step of all operands, and write it, without autograd; see the top of this module for the promise.

    Args:
        batches: What was admitted; those of one batch are laid side by side, and must be alike.
        lr: Learning rate η ≥ 0.
        beta: Strength β ≥ 0.
        rule: The update rule.
        penalty: The penalty.

    Returns:
        The loss of each batch before the step.

    Raises:
        OptionError, ShapeError: If the rule gives no `Step`, or one of another shape, dtype or device; nothing has been
            written then.
    """
    each = list(batches)
    check_lr(lr)
    options: dict[str, Any] = {"lr": lr, "beta": beta, "penalty": penalty}
    if (
        rule in (proximal, polyak, subgradient)
        and _is_arithmetic(penalty)
        and not (len(each) > 1 and kernels.is_forced())
    ):
        losses: list[Scalar] = []
        for batch in each:
            if rule is proximal and len(batch) == 1 and _is_in_place(batch[0]):
                losses.append(proximal_(batch[0].phi, **options))
            else:
                losses.append(_write(batch, *_compute(batch, rule, options)))
        return losses
    computed = [_compute(batch, rule, options) for batch in each]
    return [_write(batch, *result) for batch, result in zip(each, computed, strict=True)]


def put_(tensor: Tensor, value: Tensor) -> None:
    """Write a value of the same shape into a tensor that can be written to, rounded to its dtype; without autograd."""
    tensor.copy_(value)


def _compute(batch: Sequence[Operand], rule: Rule, options: dict[str, Any]) -> tuple[list[Tensor], Scalar]:
    """Give what is to be written into each tensor, in its shape: its change, or in 16 bits its new value."""
    phi = batch[0].phi if len(batch) == 1 else side_by_side([each.phi for each in batch])
    wide = phi.to(dense.compute_dtype(phi.dtype))
    step = rule(wide, **options)
    _check_step(step, wide)
    result = step.change if wide.dtype == phi.dtype else (wide + step.change).to(phi.dtype)
    parts = [result] if len(batch) == 1 else result.split(batch[0].phi.shape[1], dim=1)
    return [from_phi(part, each.tensor, each.layout) for part, each in zip(parts, batch, strict=True)], step.loss


def _write(batch: Sequence[Operand], results: Sequence[Tensor], loss: Scalar) -> Scalar:
    dtype = batch[0].tensor.dtype
    exact = dtype == dense.compute_dtype(dtype)
    for each, result in zip(batch, results, strict=True):
        each.tensor.add_(result) if exact else each.tensor.copy_(result)
    return loss


def _check_step(step: Any, phi: Phi) -> None:
    if not isinstance(step, Step):
        raise OptionError(f"a rule must return a gramian.rules.Step; got {type(step).__name__}")
    for name, value in (("change", step.change), ("loss", step.loss)):
        if not isinstance(value, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(f"the {name} that a rule returns must be a tensor; got {type(value).__name__}")
    for name, value, expected in (("change", step.change, phi.shape), ("loss", step.loss, torch.Size())):
        if value.shape != expected:
            raise ShapeError(
                f"the {name} that a rule returns must be of shape {list(expected)}; got {list(value.shape)}"
            )
    if step.change.dtype != phi.dtype or step.change.device != phi.device:
        raise OptionError(
            f"the change that a rule returns must be of the dtype and on the device of phi, {phi.dtype} on "
            f"{phi.device}; got {step.change.dtype} on {step.change.device}; try change.to(phi)"
        )


def _is_arithmetic(penalty: Penalty) -> bool:
    """Tell whether a penalty is made of plain arithmetic of this package, which cannot fail."""
    if isinstance(penalty, Sum):
        return type(penalty) is Sum and all(_is_arithmetic(part) for part in penalty.parts)
    if type(penalty) in (Cosine, Excess, Scaled, Target, Weighted):
        return _is_arithmetic(penalty.penalty)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
    return type(penalty) in _ARITHMETIC


def _is_in_place(operand: Operand) -> bool:
    """Tell whether Φ is memory of the tensor, in the dtype of the step: then it may be stepped where it lies."""
    tensor, _, phi = operand
    if torch.compiler.is_compiling() or not kernels.is_plain(tensor):
        return False
    if phi.dtype != dense.compute_dtype(phi.dtype):
        return False
    return phi.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
