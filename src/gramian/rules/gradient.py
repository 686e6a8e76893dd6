"""The rules that step along the negative gradient: with a given step length, and with Polyak's."""

import math

import torch
from torch import Tensor

from gramian.errors import OptionError, ShapeError
from gramian.kernels.base import is_plain
from gramian.kernels.dispatch import choose
from gramian.penalties import Penalty
from gramian.rules.base import Step, coordinatewise, groupwise
from gramian.typing import GroupScalars, LearningRate, Phi

__all__ = ["check_finite_lr", "check_tall", "polyak", "subgradient"]


@groupwise
@coordinatewise
def subgradient(phi: Phi, *, lr: LearningRate, beta: float, penalty: Penalty) -> Step:
    r"""Step along the negative gradient: P ← P − η·2βPG.

    With l1 it oscillates around the kink with an amplitude of about ηβ, unless η decays.

    Args:
        phi: Φ[l, m, n].
        lr: Learning rate η ≥ 0, finite.
        beta: Strength β ≥ 0.
        penalty: The penalty μ.

    Returns:
        The change of Φ and the loss before the step.

    Raises:
        OptionError: If `lr` is infinite.

    Cost:
        4·m·l·n² flops; m·n² + l·m·n numbers.

    Examples:
        >>> import torch
        >>> from gramian.penalties import L1
        >>> subgradient(torch.full((1, 1, 1), 2.0), lr=0.1, beta=1.0, penalty=L1()).change.item()
        -0.4...
    """
    check_finite_lr(lr)
    values, grad = _value_and_grad(phi, penalty, beta)
    return Step(-lr * grad, values.sum())


@groupwise
def polyak(phi: Phi, *, lr: LearningRate, beta: float, penalty: Penalty) -> Step:
    r"""Step along the negative gradient by Polyak's length: P ← P − min(η, L_i/‖∂L_i‖²)·∂L_i, for each group.

    Polyak's length needs the smallest possible loss, which is 0 when n ≤ l. So no step length has to be tuned.

    Args:
        phi: Φ[l, m, n] with n ≤ l.
        lr: Largest step η ≥ 0; may be infinite.
        beta: Strength β ≥ 0.
        penalty: The penalty μ.

    Returns:
        The change of Φ and the loss before the step.

    Raises:
        ShapeError: If n > l, because the smallest loss is not known then.

    Cost:
        4·m·l·n² flops; m·n² + l·m·n numbers.

    Examples:
        >>> import torch
        >>> from gramian.penalties import L1
        >>> polyak(torch.full((1, 1, 1), 2.0), lr=1.0, beta=1.0, penalty=L1()).change.item()
        -0.75

    References:
        Davis, Drusvyatskiy, MacPhee and Paquette, "Subgradient methods for sharp weakly convex functions", 2018;
        Loizou et al., "Stochastic Polyak step-size for SGD", 2020, for the cap η.
    """
    check_tall(phi.shape[0], phi.shape[2])
    values, grad = _value_and_grad(phi, penalty, beta)
    squares = grad.square().sum(dim=(0, 2))
    # A zero gradient (an orthonormal group, or P = 0) gives no step; L_i/0 · 0 would be NaN.
    lengths = torch.where(squares == 0, 0, values / squares).clamp_max(lr)
    return Step(-lengths[:, None] * grad, values.sum())


def check_finite_lr(lr: LearningRate) -> None:
    """Check that a learning rate is finite, as the subgradient rule requires.

    Raises:
        OptionError: If it is infinite.
    """
    if not isinstance(lr, Tensor) and math.isinf(lr):  # a tensor is not read
        raise OptionError("lr must be finite for the subgradient rule; got inf; try rule='proximal', which allows it")


def _value_and_grad(phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
    """Compute βμ(X) and its gradient, which is 0 for a finite group whose loss overflows."""
    kernel = choose(phi, penalty)
    values, grad = kernel.value_and_grad(phi, penalty, beta)
    finite = values.isfinite()
    readable = values.device.type == "cpu" and not torch.compiler.is_compiling() and is_plain(values)
    if readable and finite.all().item():
        return values, grad
    return values, torch.where((~finite & kernel.finite(phi))[:, None], 0, grad)


def check_tall(length: int, members: int) -> None:
    """Check that groups have n ≤ l vectors, as Polyak's rule requires.

    Raises:
        ShapeError: If n > l.
    """
    if members > length:
        raise ShapeError(
            f"the polyak rule needs groups of n <= l vectors, where the smallest loss is 0; got n = {members}, "
            f"l = {length}; try rule='proximal' or a layout with smaller groups"
        )
