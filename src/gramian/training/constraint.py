"""The hard constraint: weights made orthonormal to rounding, as far as their penalty sees them."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gramian import foreach
from gramian.layout import as_phi, from_phi
from gramian.objective import residual
from gramian.penalties import L1, Penalty
from gramian.rules import Rule
from gramian.rules.apply import put_
from gramian.training.coupled import add_up
from gramian.training.selection import Target
from gramian.training.sharded import is_sharded, sharded_step_
from gramian.training.wrappers import whole_tensor
from gramian.typing import Scalar

__all__ = ["restore_", "step_targets_"]

_MOST_STEPS = 60
"""Newton–Schulz steps from any start; near the manifold each squares the residual, and two or three are enough."""


def step_targets_(
    targets: Sequence[Target], *, lr: float, beta: float, rule: str | Rule, penalty: str | Penalty
) -> Iterator[Scalar]:
    """Step parameters in place: those that are spread over processes one by one, the others of a device together.

    Returns:
        The losses before the step, some for each device.
    """
    together: dict[torch.device, list[Target]] = {}
    for each in targets:
        if is_sharded(each.parameter):
            yield sharded_step_(each.parameter, lr=lr, beta=beta, rule=rule, penalty=penalty, layout=each.layout)
        else:
            together.setdefault(each.parameter.device, []).append(each)
    for alike in together.values():
        yield foreach.step_(
            [each.parameter for each in alike], lr=lr, beta=beta, rule=rule, penalty=penalty,
            layouts=[each.layout for each in alike],
        )  # fmt: skip


def restore_(targets: Sequence[Target], penalty: Penalty) -> Scalar:
    """Make weights orthonormal to rounding, by Newton–Schulz steps.

    What the penalty does not see is left alone. Where lengths are free, vectors are of length 1 on the way, for which
    the steps converge quadratically, and get their lengths back at the end.

    Returns:
        The loss before, Σ|X_jk| of the entries that the penalty sees.
    """
    rounding = 0.0
    for each in targets:
        _, m, n = each.shape
        eps = torch.finfo(each.parameter.dtype).eps
        rounding += m * n * n * (4 * eps if eps < 1e-6 else eps / 4)
    is_l1 = isinstance(penalty, L1)
    losses = [] if is_l1 and penalty.diagonal else [_left_over(targets, penalty)]
    free = [] if penalty.diagonal else [each for each in targets if not is_sharded(each.parameter)]
    lengths = [_lengths(each) for each in free]
    for _ in range(_MOST_STEPS):
        for each in free:
            _set_lengths_(each, torch.ones((), device=each.parameter.device))
        values = step_targets_(targets, lr=math.inf, beta=1.0, rule="proximal", penalty=penalty)
        losses.append(add_up([value.double() for value in values]))
        # The loss of l1 is what is left over, before the step that gave it.
        if float(losses[-1] if is_l1 else _left_over(targets, penalty)) <= rounding:
            break
    for each, length in zip(free, lengths, strict=True):
        _set_lengths_(each, length)
    return losses[0]


def _left_over(targets: Sequence[Target], penalty: Penalty) -> Scalar:
    """Give Σ|X_jk| of the entries that the penalty sees."""
    residuals = (residual(whole_tensor(each.parameter), layout=each.layout) for each in targets)
    return add_up([penalty.seen(X).abs().sum().double() for X in residuals])


def _lengths(target: Target) -> Tensor:
    phi = as_phi(target.parameter.detach(), target.layout)
    return torch.linalg.vector_norm(phi, dim=0, dtype=torch.promote_types(phi.dtype, torch.float32))


def _set_lengths_(target: Target, lengths: Tensor) -> None:
    """Give vectors new lengths, but for those of length 0."""
    current = _lengths(target)
    factors = torch.where(current > 0, lengths / current, 1)
    phi = as_phi(target.parameter.detach(), target.layout) * factors
    put_(target.parameter, from_phi(phi, target.parameter, target.layout))
