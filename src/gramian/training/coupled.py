"""The coupled forms: the penalty as a term of the loss of a task, or its gradient added to that of the task."""

from collections.abc import Sequence

import torch

from gramian import foreach, objective
from gramian.errors import OptionError
from gramian.penalties import Penalty
from gramian.selection import SelectedParameter
from gramian.typing import Scalar

__all__ = ["add_grad_", "add_up", "loss"]


def loss(targets: Sequence[SelectedParameter], *, beta: float, penalty: str | Penalty = "l1") -> Scalar:
    r"""Sum the losses of selected parameters, as a differentiable term of the loss of a task.

    The gradient of the penalty then passes through the optimiser's moments, and with l1 the weights oscillate around
    the kink. `attach` avoids both.

    Args:
        targets: From `gramian.selection.select_parameters`.
        beta: Strength β ≥ 0.
        penalty: Name or `Penalty`.

    Returns:
        A 0-dimensional tensor.

    Raises:
        OptionError: If there are no targets, or β or the penalty is invalid.

    Cost:
        4·m·l·n² flops for each parameter.

    Examples:
        >>> import torch, gramian
        >>> from gramian import selection, training
        >>> model = torch.nn.Linear(16, 8)
        >>> targets, _ = selection.select_parameters(model)
        >>> task = model(torch.randn(4, 16)).square().mean()
        >>> (task + training.loss(targets, beta=1e-3)).backward()
    """
    _check(targets)
    return add_up(
        [objective.loss(target.parameter, beta=beta, penalty=penalty, layout=target.layout) for target in targets]
    )


def add_grad_(
    targets: Sequence[SelectedParameter], *, beta: float, penalty: str | Penalty = "l1", scale: float = 1.0
) -> Scalar:
    r"""Add the closed-form gradient to `.grad` of selected parameters, between `backward` and the optimiser's step.

    Args:
        targets: From `gramian.selection.select_parameters`.
        beta: Strength β ≥ 0.
        penalty: Name or `Penalty`.
        scale: The factor by which the gradients are scaled at this point: `scaler.get_scale()` before
            `scaler.unscale_(optimizer)` or `scaler.step(optimizer)`, 1 after unscaling or without a scaler.

    Returns:
        The loss, a 0-dimensional tensor, without the scale.

    Raises:
        OptionError: If there are no targets, or β or the penalty is invalid.

    Cost:
        4·m·l·n² flops for each parameter; small ones of the same shape are batched.

    Examples:
        >>> import torch, gramian
        >>> from gramian import selection, training
        >>> model = torch.nn.Linear(16, 8)
        >>> targets, _ = selection.select_parameters(model)
        >>> model(torch.randn(4, 16)).square().mean().backward()
        >>> value = training.add_grad_(targets, beta=1e-3)
    """
    _check(targets)
    total, grads = foreach.value_and_grad(
        [target.parameter for target in targets],
        beta=beta,
        penalty=penalty,
        layouts=[target.layout for target in targets],
    )
    with torch.no_grad():
        for target, grad in zip(targets, grads, strict=True):
            if target.parameter.grad is None:
                target.parameter.grad = scale * grad
            else:
                target.parameter.grad.add_(grad, alpha=scale)
    return total


def add_up(losses: Sequence[Scalar]) -> Scalar:
    """Sum losses on several devices without synchronisation: on each device first, then on one. Differentiable.

    That device is the first that is not the CPU, if there is one, because a copy to the CPU would synchronise.
    """
    by_device: dict[torch.device, list[Scalar]] = {}
    for term in losses:
        by_device.setdefault(term.device, []).append(term)
    sums = [parts[0] if len(parts) == 1 else torch.stack(parts).sum() for parts in by_device.values()]
    if len(sums) == 1:
        return sums[0]
    target = next(device for device in by_device if device.type != "cpu")
    return torch.stack([part.to(target, non_blocking=True) for part in sums]).sum()


def _check(targets: Sequence[SelectedParameter]) -> None:
    if not targets:
        raise OptionError("there must be at least one target; got none; try gramian.selection.select_parameters(model)")
