"""The coupled forms: the penalty within the loss of a task, or its gradient beside the task's."""

from collections.abc import Sequence

import torch

from gramian import foreach, objective
from gramian.errors import OptionError
from gramian.penalties import Penalty
from gramian.training.selection import Target
from gramian.typing import Scalar

__all__ = ["add_grad_", "add_up", "loss"]


def loss(targets: Sequence[Target], *, beta: float, penalty: str | Penalty = "l1") -> Scalar:
    r"""Add up the losses of selected parameters, to be added to the loss of a task. Differentiable.

    The penalty then passes through the optimiser's moments, and with l1 it chatters around the kink by what one step
    moves: `attach` does neither.

    Args:
        targets: From `select_parameters`.
        beta: Strength β ≥ 0.
        penalty: Name or `Penalty`.

    Returns:
        A 0-dimensional tensor.

    Raises:
        OptionError: If there are no targets, or β or the penalty are no such.

    Cost:
        4·m·l·n² flops for each parameter.

    Examples:
        >>> import torch, gramian
        >>> from gramian import training
        >>> model = torch.nn.Linear(16, 8)
        >>> targets, _ = training.select_parameters(model)
        >>> task = model(torch.randn(4, 16)).square().mean()
        >>> (task + training.loss(targets, beta=1e-3)).backward()
    """
    _check(targets)
    return add_up([objective.loss(each.parameter, beta=beta, penalty=penalty, layout=each.layout) for each in targets])


def add_grad_(targets: Sequence[Target], *, beta: float, penalty: str | Penalty = "l1", scale: float = 1.0) -> Scalar:
    r"""Add the closed-form gradient to `.grad` of selected parameters: after `backward`, before the optimiser's step.

    Args:
        targets: From `select_parameters`.
        beta: Strength β ≥ 0.
        penalty: Name or `Penalty`.
        scale: The factor by which the gradients are scaled at that moment: `scaler.get_scale()` before
            `scaler.unscale_(optimizer)` or `scaler.step(optimizer)`, 1 after unscaling or without a scaler.

    Returns:
        The loss, a 0-dimensional tensor, without the scale.

    Raises:
        OptionError: If there are no targets, or β or the penalty are no such.

    Cost:
        4·m·l·n² flops for each parameter, small ones of the same shape together.

    Examples:
        >>> import torch, gramian
        >>> from gramian import training
        >>> model = torch.nn.Linear(16, 8)
        >>> targets, _ = training.select_parameters(model)
        >>> model(torch.randn(4, 16)).square().mean().backward()
        >>> value = training.add_grad_(targets, beta=1e-3)
    """
    _check(targets)
    total, grads = foreach.value_and_grad(
        [each.parameter for each in targets], beta=beta, penalty=penalty, layouts=[each.layout for each in targets]
    )
    with torch.no_grad():
        for each, grad in zip(targets, grads, strict=True):
            if each.parameter.grad is None:
                each.parameter.grad = scale * grad
            else:
                each.parameter.grad.add_(grad, alpha=scale)
    return total


def add_up(losses: Sequence[Scalar]) -> Scalar:
    """Add losses up, those of each device there and their sums on one, without waiting for any. Differentiable.

    The one device is the first that is not the CPU, if there is any: a copy to the CPU would have to be waited for.
    """
    by_device: dict[torch.device, list[Scalar]] = {}
    for each in losses:
        by_device.setdefault(each.device, []).append(each)
    sums = [each[0] if len(each) == 1 else torch.stack(each).sum() for each in by_device.values()]
    if len(sums) == 1:
        return sums[0]
    home = next(device for device in by_device if device.type != "cpu")
    return torch.stack([each.to(home, non_blocking=True) for each in sums]).sum()


def _check(targets: Sequence[Target]) -> None:
    if not targets:
        raise OptionError("there must be at least one target; got none; try gramian.training.select_parameters(model)")
