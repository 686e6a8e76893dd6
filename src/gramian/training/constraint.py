"""Steps of selected parameters: those that are spread over processes one by one, the others of a device together."""

import math
import warnings
from collections.abc import Iterator, Sequence

import torch

from gramian import foreach
from gramian.errors import AttachmentWarning
from gramian.penalties import Penalty
from gramian.rules import Rule
from gramian.rules.restore import Restoration
from gramian.training.selection import Target
from gramian.training.sharded import is_sharded, sharded_restore_, sharded_step_
from gramian.typing import Scalar

__all__ = ["restore_targets_", "step_targets_"]


def step_targets_(
    targets: Sequence[Target], *, lr: float, beta: float, rule: str | Rule, penalty: str | Penalty
) -> Iterator[Scalar]:
    """Step parameters in place: by the rule, or where β is infinite until they are orthonormal.

    Returns:
        The losses before the step, one for each device and for each parameter that is spread over processes.

    Warns:
        AttachmentWarning: If β is infinite, and parameters cannot be made orthonormal to rounding.
    """
    if math.isinf(beta):
        yield from restore_targets_(targets, penalty)
        return
    for part in _together(targets):
        if len(part) == 1 and is_sharded(part[0].parameter):
            (each,) = part
            yield sharded_step_(each.parameter, lr=lr, beta=beta, rule=rule, penalty=penalty, layout=each.layout)
        else:
            yield foreach.step_(
                [each.parameter for each in part], lr=lr, beta=beta, rule=rule, penalty=penalty,
                layouts=[each.layout for each in part],
            )  # fmt: skip


def restore_targets_(targets: Sequence[Target], penalty: str | Penalty) -> list[Scalar]:
    """Make parameters orthonormal to rounding, in place, as far as the penalty sees them.

    Returns:
        The losses before, as `step_targets_` gives them.

    Warns:
        AttachmentWarning: If some cannot be made so: their vectors are linearly dependent, or not finite.
    """
    losses: list[Scalar] = []
    for part in _together(targets):
        done = _restored(part, penalty)
        losses.append(done.loss)
        if not done.converged:
            names = [each.name for each in part]
            warnings.warn(
                f"a hard constraint must be met; after {done.steps} steps ({done.stopped}) it is not, in one "
                f"of {', '.join(names[:6])}{', …' if len(names) > 6 else ''}; its vectors are linearly dependent or "
                "not finite; attachment.residuals() tells which it is; try to initialise it anew",
                AttachmentWarning,
                stacklevel=2,
            )
    return losses


def _restored(part: Sequence[Target], penalty: str | Penalty) -> Restoration:
    if len(part) == 1 and is_sharded(part[0].parameter):
        return sharded_restore_(part[0].parameter, penalty=penalty, layout=part[0].layout)
    layouts = [each.layout for each in part]
    return foreach.restore_([each.parameter for each in part], penalty=penalty, layouts=layouts)


def _together(targets: Sequence[Target]) -> Iterator[list[Target]]:
    """Give each parameter that is spread over processes alone, and those of each device together."""
    alike: dict[torch.device, list[Target]] = {}
    for each in targets:
        if is_sharded(each.parameter):
            yield [each]
        else:
            alike.setdefault(each.parameter.device, []).append(each)
    yield from alike.values()
