"""Steps of selected parameters: sharded ones one by one, the others of each device in one call."""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from gramian import foreach
from gramian.distributed.sharded import is_sharded, sharded_restore_, sharded_step_, whole_tensor
from gramian.errors import AttachmentWarning
from gramian.frozen import FrozenBasis
from gramian.kernels import reference
from gramian.objective import residual
from gramian.penalties import Penalty
from gramian.rules import Rule
from gramian.rules.restore import Restoration, rounding_level
from gramian.selection import SelectedParameter
from gramian.typing import LearningRate, Scalar

__all__ = ["restore_targets_", "step_targets_", "unrestored"]

_RESTORED = 4
"""Multiple of the level of rounding up to which parameters count as restored."""


def step_targets_(
    targets: Sequence[SelectedParameter],
    *,
    lr: LearningRate,
    beta: float,
    rule: str | Rule,
    penalty: str | Penalty,
    against: Sequence[FrozenBasis | None] | None = None,
    against_beta: float | None = None,
) -> Iterator[Scalar]:
    """Step parameters in place: once by the rule, or for infinite β until they are orthonormal.

    Args:
        targets: The parameters.
        lr: Learning rate η.
        beta: Strength β.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        against: The basis of the frozen vectors of each, or None.
        against_beta: Strength against frozen vectors, by default β; infinity projects.

    Returns:
        The losses before the step, one for each device and one for each sharded parameter.

    Warns:
        AttachmentWarning: If β is infinite and some parameters cannot be made orthonormal to rounding.
    """
    bases = dict(zip(map(id, targets), against or (), strict=against is not None))
    if math.isinf(beta):
        strength = math.inf if against_beta is None else against_beta
        hard = math.isinf(strength)
        protected = [] if hard else [target for target in targets if bases.get(id(target)) is not None]
        if protected:
            soft: dict[str, Any] = {"lr": lr, "beta": 0.0, "rule": rule, "penalty": penalty, "against_beta": strength}
            yield from step_targets_(protected, against=[bases[id(target)] for target in protected], **soft)
        yield from restore_targets_(targets, penalty, against if hard else None)
        return
    for batch in _batches(targets):
        frozen = [bases.get(id(target)) for target in batch]
        options: dict[str, Any] = {
            "lr": lr, "beta": beta, "rule": rule, "penalty": penalty, "against_beta": against_beta,
        }  # fmt: skip
        if len(batch) == 1 and is_sharded(batch[0].parameter):
            (target,) = batch
            yield sharded_step_(target.parameter, layout=target.layout, against=frozen[0], **options)
        else:
            layouts = [target.layout for target in batch]
            yield foreach.step_([target.parameter for target in batch], layouts=layouts, against=frozen, **options)


def restore_targets_(
    targets: Sequence[SelectedParameter],
    penalty: str | Penalty,
    against: Sequence[FrozenBasis | None] | None = None,
) -> list[Scalar]:
    """Make every entry of X on which the penalty depends, and of QᵀP, zero to rounding, in place.

    Args:
        targets: The parameters.
        penalty: Name or `Penalty`.
        against: The basis Q of the frozen vectors of each, or None.

    Returns:
        The losses before, as `step_targets_` returns them.

    Warns:
        AttachmentWarning: If that is impossible for some: their vectors are linearly dependent, or not finite.
    """
    losses: list[Scalar] = []
    bases = dict(zip(map(id, targets), against or (), strict=against is not None))
    for batch in _batches(targets):
        result = _restored(batch, penalty, [bases.get(id(target)) for target in batch])
        losses.append(result.loss)
        if not result.converged:
            names = [target.name for target in batch]
            warnings.warn(
                f"a hard constraint must be met; after {result.steps} steps ({result.stopped}) it is not met in at "
                f"least one of {', '.join(names[:6])}{', …' if len(names) > 6 else ''};"
                f" its vectors are linearly dependent or "
                "not finite; attachment.residuals() shows which; try to initialise it again",
                AttachmentWarning,
                stacklevel=2,
            )
    return losses


def unrestored(
    targets: Sequence[SelectedParameter], penalty: Penalty, against: Sequence[FrozenBasis | None]
) -> tuple[list[SelectedParameter], Penalty, list[FrozenBasis | None]]:
    """Return the arguments of `restore_targets_` without the parameters that it would change by rounding only.

    A restoration makes at least two steps, which change bits. So that a resumed run ends with the same bits as an
    uninterrupted one, what a checkpoint brings is not restored again, unless frozen vectors are given. All processes of
    a mesh must call this.
    """
    kept = [
        (target, basis)
        for target, basis in zip(targets, against, strict=True)
        if basis is not None or not _is_restored(target, penalty)
    ]
    return [target for target, _ in kept], penalty, [basis for _, basis in kept]


def _is_restored(target: SelectedParameter, penalty: Penalty) -> bool:
    errors = residual(whole_tensor(target.parameter), layout=target.layout)
    if not penalty.diagonal and penalty.minimal_at_zero:  # lengths are free
        lengths = (errors.diagonal(dim1=-2, dim2=-1) + 1).sqrt()
        errors = errors / (lengths[..., :, None] * lengths[..., None, :])
    dtype = target.parameter.dtype
    level = rounding_level(dtype, target.shape[0], products=reference.compute_dtype(dtype))
    return bool((penalty.penalized(errors).abs() <= _RESTORED * level).all())


def _restored(
    batch: Sequence[SelectedParameter], penalty: str | Penalty, against: Sequence[FrozenBasis | None]
) -> Restoration:
    if len(batch) == 1 and is_sharded(batch[0].parameter):
        return sharded_restore_(batch[0].parameter, penalty=penalty, layout=batch[0].layout, against=against[0])
    layouts = [target.layout for target in batch]
    return foreach.restore_([target.parameter for target in batch], penalty=penalty, layouts=layouts, against=against)


def _batches(targets: Sequence[SelectedParameter]) -> Iterator[list[SelectedParameter]]:
    """Yield each sharded parameter alone, and the other parameters of each device together."""
    by_device: dict[torch.device, list[SelectedParameter]] = {}
    for target in targets:
        if is_sharded(target.parameter):
            yield [target]
        else:
            by_device.setdefault(target.parameter.device, []).append(target)
    yield from by_device.values()
