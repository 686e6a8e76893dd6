"""Steps of selected parameters: sharded ones one by one, the others of each device in one call."""

import math
import warnings
from collections.abc import Iterator, Sequence

import torch

from gramian import foreach
from gramian.distributed.sharded import is_sharded, sharded_restore_, sharded_step_, whole_tensor
from gramian.errors import AttachmentWarning
from gramian.kernels import reference
from gramian.objective import residual
from gramian.penalties import Penalty
from gramian.rules import Rule
from gramian.rules.restore import Restoration, rounding_level
from gramian.selection import SelectedParameter
from gramian.typing import Scalar

__all__ = ["restore_targets_", "step_targets_", "unrestored"]

_RESTORED = 4
"""Multiple of the level of rounding up to which parameters count as restored."""


def step_targets_(
    targets: Sequence[SelectedParameter], *, lr: float, beta: float, rule: str | Rule, penalty: str | Penalty
) -> Iterator[Scalar]:
    """Step parameters in place: once by the rule, or for infinite β until they are orthonormal.

    Returns:
        The losses before the step, one for each device and one for each sharded parameter.

    Warns:
        AttachmentWarning: If β is infinite and some parameters cannot be made orthonormal to rounding.
    """
    if math.isinf(beta):
        yield from restore_targets_(targets, penalty)
        return
    for batch in _batches(targets):
        if len(batch) == 1 and is_sharded(batch[0].parameter):
            (target,) = batch
            yield sharded_step_(target.parameter, lr=lr, beta=beta, rule=rule, penalty=penalty, layout=target.layout)
        else:
            yield foreach.step_(
                [target.parameter for target in batch], lr=lr, beta=beta, rule=rule, penalty=penalty,
                layouts=[target.layout for target in batch],
            )  # fmt: skip


def restore_targets_(targets: Sequence[SelectedParameter], penalty: str | Penalty) -> list[Scalar]:
    """Make every entry of X on which the penalty depends zero to rounding, in place.

    Returns:
        The losses before, as `step_targets_` returns them.

    Warns:
        AttachmentWarning: If that is impossible for some: their vectors are linearly dependent, or not finite.
    """
    losses: list[Scalar] = []
    for batch in _batches(targets):
        result = _restored(batch, penalty)
        losses.append(result.loss)
        if not result.converged:
            names = [target.name for target in batch]
            warnings.warn(
                f"a hard constraint must be met; after {result.steps} steps ({result.stopped}) it is not in at "
                f"least one of {', '.join(names[:6])}{', …' if len(names) > 6 else ''};"
                f" its vectors are linearly dependent or "
                "not finite; attachment.residuals() shows which; try to initialise it again",
                AttachmentWarning,
                stacklevel=2,
            )
    return losses


def unrestored(targets: Sequence[SelectedParameter], penalty: Penalty) -> list[SelectedParameter]:
    """Return the parameters that a hard constraint would change by more than rounding.

    A restoration makes at least two steps, which change bits. So that a resumed run ends with the same bits as an
    uninterrupted one, what a checkpoint brings is not restored again. All processes of a mesh must call this.
    """
    return [target for target in targets if not _is_restored(target, penalty)]


def _is_restored(target: SelectedParameter, penalty: Penalty) -> bool:
    errors = residual(whole_tensor(target.parameter), layout=target.layout)
    if not penalty.diagonal and penalty.minimal_at_zero:  # lengths are free
        lengths = (errors.diagonal(dim1=-2, dim2=-1) + 1).sqrt()
        errors = errors / (lengths[..., :, None] * lengths[..., None, :])
    dtype = target.parameter.dtype
    level = rounding_level(dtype, target.shape[0], products=reference.compute_dtype(dtype))
    return bool((penalty.penalized(errors).abs() <= _RESTORED * level).all())


def _restored(batch: Sequence[SelectedParameter], penalty: str | Penalty) -> Restoration:
    if len(batch) == 1 and is_sharded(batch[0].parameter):
        return sharded_restore_(batch[0].parameter, penalty=penalty, layout=batch[0].layout)
    layouts = [target.layout for target in batch]
    return foreach.restore_([target.parameter for target in batch], penalty=penalty, layouts=layouts)


def _batches(targets: Sequence[SelectedParameter]) -> Iterator[list[SelectedParameter]]:
    """Yield each sharded parameter alone, and the other parameters of each device together."""
    by_device: dict[torch.device, list[SelectedParameter]] = {}
    for target in targets:
        if is_sharded(target.parameter):
            yield [target]
        else:
            by_device.setdefault(target.parameter.device, []).append(target)
    yield from by_device.values()
