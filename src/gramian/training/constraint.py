"""The hard constraint: weights made orthonormal to rounding, as far as their penalty sees them."""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext

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

    What the penalty does not see is left alone: where lengths are free, they are taken out, and put back at the end.

    Returns:
        The loss before, Σ|X_jk| of the entries that the penalty sees.
    """
    rounding = 0.0
    for each in targets:
        _, m, n = each.shape
        eps = torch.finfo(each.parameter.dtype).eps
        rounding += m * n * n * (4 * eps if eps < 1e-6 else eps / 4)
    first = None if isinstance(penalty, L1) and penalty.diagonal else _left_over(targets, penalty)
    with nullcontext() if penalty.diagonal else _without_lengths(targets):
        for _ in range(_MOST_STEPS):
            losses = step_targets_(targets, lr=math.inf, beta=1.0, rule="proximal", penalty=penalty)
            before = add_up([loss.double() for loss in losses])
            first = before if first is None else first
            # The loss of l1 is what is left over, before the step that gave it.
            if float(before if isinstance(penalty, L1) else _left_over(targets, penalty)) <= rounding:
                break
    return before if first is None else first


def _left_over(targets: Sequence[Target], penalty: Penalty) -> Scalar:
    """Give Σ|X_jk| of the entries that the penalty sees."""
    residuals = (residual(whole_tensor(each.parameter), layout=each.layout) for each in targets)
    return add_up([penalty.seen(X).abs().sum().double() for X in residuals])


@contextmanager
def _without_lengths(targets: Sequence[Target]) -> Generator[None]:
    """Give vectors the length 1 within a `with` block, and those that they had at its end."""
    whole = [each for each in targets if not is_sharded(each.parameter)]
    lengths = [_lengths(each) for each in whole]
    for each, length in zip(whole, lengths, strict=True):
        _scale_(each, torch.where(length > 0, 1 / length, 1))
    yield
    for each, length in zip(whole, lengths, strict=True):
        now = _lengths(each)
        _scale_(each, torch.where(now > 0, length / now, 1))


def _lengths(target: Target) -> Tensor:
    phi = as_phi(target.parameter.detach(), target.layout)
    return torch.linalg.vector_norm(phi, dim=0, dtype=torch.promote_types(phi.dtype, torch.float32))


def _scale_(target: Target, factors: Tensor) -> None:
    phi = as_phi(target.parameter.detach(), target.layout) * factors
    put_(target.parameter, from_phi(phi, target.parameter, target.layout))
