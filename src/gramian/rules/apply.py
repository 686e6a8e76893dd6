"""The one module that writes a change into a tensor: check everything, compute the changes, write them.

`admit` checks tensors; `apply_` computes and writes. They guarantee:

- All checks of all tensors pass before the first tensor is written.
- If a rule or a penalty is from outside this package, or a penalty needs an eigendecomposition, all changes of the call
  are computed before the first is written. This costs a copy of all tensors.
- With the built-in rules and the other penalties nothing but memory or the device can fail after the checks. Then
  tensors are computed and written one after another, so that one change is held at a time, and the proximal rule
  writes each group as it is computed (`proximal_`).

Where a tensor has frozen vectors, the step against them (`gramian.rules.against`) comes before the rule, in the same
write.

`put_` writes a value that was computed elsewhere, such as a shard from another process.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gramian.errors import GramianError, OptionError, ShapeError
from gramian.frozen import FrozenBasis, FrozenVectors, as_frozen
from gramian.kernels import reference
from gramian.kernels.base import is_plain
from gramian.kernels.dispatch import choose, is_forced
from gramian.kernels.gpu.operators import is_traceable
from gramian.layout import Layout, as_layout, as_phi, from_phi
from gramian.penalties import L1, Coherence, Frobenius, Huber, Penalty, SquaredFrobenius, Sum
from gramian.rules.against import shrink
from gramian.rules.base import Rule, Step, is_groupwise
from gramian.rules.prox import proximal, proximal_
from gramian.rules.registry import RULES
from gramian.rules.writable import check_disjoint, check_writable
from gramian.typing import LearningRate, Phi, Scalar

__all__ = ["Operand", "admit", "apply_", "batches", "put_", "side_by_side"]

_ARITHMETIC = frozenset((L1, Huber, SquaredFrobenius, Frobenius, Coherence))
"""Penalties whose computation cannot fail. Subclasses are excluded: they are the user's code."""

_SMALL = 1 << 17
"""Number of elements up to which copying a tensor costs less than a call."""

_SMALL_BASIS = 1 << 15
"""The same limit for a basis of frozen vectors."""

_BATCH = 1 << 19
"""Largest number of elements that are concatenated."""


class Operand(NamedTuple):
    """A tensor that has passed the checks, and its Φ: a view where the strides allow one."""

    tensor: Tensor
    layout: Layout | str | None
    phi: Phi
    plain: bool
    """Whether the tensor is plain memory; see `gramian.kernels.base.is_plain`. False while torch.compile traces."""
    frozen: FrozenBasis | None = None
    """The basis of the frozen vectors to which its vectors are kept orthogonal."""


def admit(
    tensors: Sequence[Tensor],
    layouts: Sequence[Layout | str | None],
    check: Callable[[tuple[int, ...]], None],
    *,
    against: Sequence[FrozenVectors | None] | None = None,
    hard: bool = False,
    writable: bool = True,
    numbered: bool = True,
) -> list[Operand]:
    """Check all tensors of a call.

    Args:
        tensors: The tensors.
        layouts: The layout of each.
        check: Checks a Φ-shape (l, m, n); it is called once for each distinct shape.
        against: The frozen vectors of each, None for none.
        hard: Whether groups must become orthonormal in the complement of the frozen vectors.
        writable: Whether the tensors are going to be written to.
        numbered: Whether an error names the tensor by its index.

    Returns:
        An operand for each tensor.

    Raises:
        DtypeError, LayoutError: As for `gramian.layout.as_phi`.
        DataError, DtypeError, LayoutError, OptionError, ShapeError: As for `gramian.frozen.FrozenBasis` and `check`.
        DtypeError, ShapeError: If a tensor cannot be written to, or two share memory; see `gramian.rules.writable`.
    """
    operands: list[Operand] = []
    traced = torch.compiler.is_compiling()
    i = 0
    try:
        for i, (tensor, layout) in enumerate(zip(tensors, layouts, strict=True)):  # noqa: B007
            operands.append(Operand(tensor, layout, as_phi(tensor, layout), plain=not traced and is_plain(tensor)))
        first: dict[tuple[int, ...], int] = {}
        for i, operand in enumerate(operands):
            first.setdefault(tuple(operand.phi.shape), i)
        for shape, i in first.items():  # noqa: B007
            check(shape)
        for i, vectors in enumerate(against or ()):
            if vectors is not None:
                frozen = as_frozen(vectors, layouts[i])
                frozen.check(operands[i].phi.shape, hard=hard)
                operands[i] = operands[i]._replace(frozen=frozen)
        if writable:
            for i, tensor in enumerate(tensors):  # noqa: B007
                check_writable(tensor)
    except GramianError as error:
        if not numbered:
            raise
        raise type(error)(f"tensor {i}: {error}") from None
    if writable and len(operands) > 1:
        check_disjoint({i: operand.tensor for i, operand in enumerate(operands) if operand.plain})
    return operands


def apply_(
    operands: Sequence[Operand],
    *,
    lr: LearningRate,
    beta: float,
    rule: Rule,
    penalty: Penalty,
    against_beta: float | None = None,
) -> list[Scalar]:
    """Compute one step of all operands and write it, without autograd; the module's docstring states the guarantees.

    Small tensors of the same Φ-shape are concatenated if the rule is groupwise. Where an operand has frozen vectors and
    β = 0, the rule is not called.

    Args:
        operands: The result of `admit`.
        lr: Learning rate η ≥ 0.
        beta: Strength β ≥ 0.
        rule: The update rule.
        penalty: The penalty.
        against_beta: Strength of the step against frozen vectors, possibly infinite; β if None.

    Returns:
        The losses, one for each batch: that of inner products with frozen vectors before the step, and that within
        groups before the rule.

    Raises:
        OptionError, ShapeError: If the rule does not return a `Step`, or one of another shape, dtype or device; nothing
            has been written then.
    """
    if len(operands) > 1 and is_groupwise(rule):
        chosen = [[operands[i] for i in batch] for batch in batches(operands, penalty)]
    else:
        chosen = [[operand] for operand in operands]
    if isinstance(lr, Tensor) and rule not in RULES.values():
        lr = float(lr)  # another rule need not know tensors
    options: dict[str, Any] = {"lr": lr, "beta": beta, "penalty": penalty}
    strength = beta if against_beta is None else against_beta
    cannot_fail = rule in RULES.values() and _is_arithmetic(penalty) and (len(chosen) < 2 or not is_forced())
    if not cannot_fail:
        computed = [_compute(batch, rule, options, strength) for batch in chosen]
        return [_write(batch, *result) for batch, result in zip(chosen, computed, strict=True)]
    in_place = [rule is proximal and len(batch) == 1 and _is_in_place(batch[0], penalty) for batch in chosen]
    return [
        _step_in_place(batch[0], options, strength)
        if direct
        else _write(batch, *_compute(batch, rule, options, strength))
        for batch, direct in zip(chosen, in_place, strict=True)
    ]


def put_(tensor: Tensor, value: Tensor) -> None:
    """Write a value of the same shape into a writable tensor, rounded to its dtype; without autograd."""
    tensor.copy_(value)


def batches(operands: Sequence[Operand], penalty: Penalty) -> list[list[int]]:
    """Choose the small tensors to concatenate: those of the same Φ-shape, dtype and device.

    A network has hundreds of small weights, and a call for each costs more than its arithmetic. A large tensor stays
    alone, because its copy would cost more than a call.

    Returns:
        The indices of the operands of each batch.
    """
    alike: dict[object, list[int]] = {}
    shared = penalty.n_groups is None  # the same parameters for any number of groups
    for i, (_, _, phi, plain, frozen) in enumerate(operands):
        # Without a group there is nothing to concatenate, and nothing to split afterwards.
        batched = shared and plain and phi.numel() <= _SMALL and phi.shape[1] > 0
        batched = batched and (frozen is None or frozen.Q.numel() <= _SMALL_BASIS)
        rank = None if frozen is None else frozen.rank
        alike.setdefault((phi.shape, phi.dtype, phi.device, rank) if batched else i, []).append(i)
    result: list[list[int]] = []
    for batch in alike.values():
        size = max(1, _BATCH // max(1, operands[batch[0]].phi.numel()))
        result += [batch[first : first + size] for first in range(0, len(batch), size)]
    return result


def side_by_side(phis: Sequence[Tensor]) -> Phi:
    """Concatenate along the group axis, in the memory order of each group: a transposition costs more than a copy."""
    strides = phis[0].stride()
    if strides[0] < strides[2]:
        return torch.cat([phi.permute(1, 2, 0) for phi in phis]).permute(2, 0, 1)
    return torch.cat([phi.permute(1, 0, 2) for phi in phis]).permute(1, 0, 2)


def _compute(
    batch: Sequence[Operand], rule: Rule, options: dict[str, Any], strength: float
) -> tuple[list[Tensor], Scalar]:
    """Compute what is written into each tensor, in its shape: the change, or in 16 bits the new value."""
    phi = batch[0].phi if len(batch) == 1 else side_by_side([operand.phi for operand in batch])
    wide = phi.to(reference.compute_dtype(phi.dtype))
    Q = _bases(batch, wide)
    if Q is None:
        step = rule(wide, **options)
        _check_step(step, wide)
        change, loss = step.change, step.loss
    else:
        change, loss = shrink(choose(wide, options["penalty"]), wide, Q, lr=options["lr"], beta=strength)
        if options["beta"] > 0:
            step = rule(wide + change, **options)
            _check_step(step, wide)
            change, loss = change + step.change, loss + step.loss
    result = change if wide.dtype == phi.dtype else (wide + change).to(phi.dtype)
    parts = [result] if len(batch) == 1 else result.split(batch[0].phi.shape[1], dim=1)
    values = [from_phi(part, operand.tensor, operand.layout) for part, operand in zip(parts, batch, strict=True)]
    return values, loss


def _step_in_place(operand: Operand, options: dict[str, Any], strength: float) -> Scalar:
    """Make the step of one tensor by the proximal rule, in its memory."""
    phi, Q = operand.phi, _bases([operand], operand.phi)
    if Q is None:
        return proximal_(phi, **options)
    change, loss = shrink(choose(phi, options["penalty"]), phi, Q, lr=options["lr"], beta=strength)
    phi.add_(change)
    return loss + proximal_(phi, **options) if options["beta"] > 0 else loss


def _bases(batch: Sequence[Operand], phi: Phi) -> Tensor | None:
    """Return the bases of the frozen vectors of a batch side by side, in the dtype of Φ; None if there are none."""
    bases = [operand.frozen.like(phi) for operand in batch if operand.frozen is not None]
    if not bases:
        return None
    if all(Q is bases[0] for Q in bases) and (len(batch) == 1 or bases[0].shape[1] == 1):
        return bases[0]
    return torch.cat([Q.expand(-1, batch[0].phi.shape[1], -1) for Q in bases], dim=1)


def _write(batch: Sequence[Operand], results: Sequence[Tensor], loss: Scalar) -> Scalar:
    dtype = batch[0].tensor.dtype
    exact = dtype == reference.compute_dtype(dtype)
    for operand, result in zip(batch, results, strict=True):
        operand.tensor.add_(result) if exact else operand.tensor.copy_(result)
    return loss


def _check_step(step: Any, phi: Phi) -> None:
    if not isinstance(step, Step):
        raise OptionError(f"a rule must return a gramian.rules.Step; got {type(step).__name__}")
    for name, value, expected in (("change", step.change, phi.shape), ("loss", step.loss, torch.Size())):
        if not isinstance(value, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(f"the {name} that a rule returns must be a tensor; got {type(value).__name__}")
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
    """Tell whether a penalty consists of plain arithmetic of this package, which cannot fail."""
    if type(penalty) is Sum:
        return all(_is_arithmetic(part) for part in penalty.parts)
    inner = getattr(penalty, "penalty", None)
    if isinstance(inner, Penalty):  # Weighted, Scaled and others, which add arithmetic to another penalty
        return type(penalty).__module__.startswith("gramian.") and _is_arithmetic(inner)
    return type(penalty) in _ARITHMETIC


def _is_in_place(operand: Operand, penalty: Penalty) -> bool:
    """Tell whether Φ can be stepped in the memory of its tensor; 16 bits only without frozen vectors."""
    tensor, layout, phi, plain, frozen = operand
    if torch.compiler.is_compiling():
        return frozen is None and is_traceable(phi, penalty) and _is_view(tensor, layout)
    exact = phi.dtype == reference.compute_dtype(phi.dtype)
    if not plain or not (exact or frozen is None):
        return False
    return phi.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


def _is_view(tensor: Tensor, layout: Layout | str | None) -> bool:
    """Tell whether Φ is a view of any tensor with this layout: no axis of Φ joins several of the tensor."""
    resolved = as_layout(layout, tensor.ndim)
    return resolved is None or all(len(axis) <= 1 for axis in resolved.sides()[1])
