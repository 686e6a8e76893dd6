"""The rules that follow the gradient: by a given step, and by Polyak's."""

import math

import torch

from gramian import kernels
from gramian.errors import OptionError, ShapeError
from gramian.penalties import Penalty
from gramian.rules.base import Step, coordinatewise, groupwise
from gramian.typing import GroupScalars, Phi

__all__ = ["check_finite", "check_tall", "polyak", "subgradient"]


@groupwise
@coordinatewise
def subgradient(phi: Phi, *, lr: float, beta: float, penalty: Penalty) -> Step:
    r"""Step against the gradient: P ← P − η·2βPG.

    With l1 it ends in a chatter of size ηβ around the kink, forever, unless η decays.

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
    check_finite(lr)
    values, grad = _value_and_grad(phi, penalty, beta)
    return Step(-lr * grad, values.sum())


@groupwise
def polyak(phi: Phi, *, lr: float, beta: float, penalty: Penalty) -> Step:
    r"""Step against the gradient as far as the loss says: P ← P − min(η, L_i/‖∂L_i‖²)·∂L_i, for each group.

    Polyak's step needs the smallest possible loss, which is 0 when n ≤ l: no length has to be guessed.

    Args:
        phi: Φ[l, m, n] with n ≤ l.
        lr: Largest step η ≥ 0; may be infinite.
        beta: Strength β ≥ 0.
        penalty: The penalty μ.

    Returns:
        The change of Φ and the loss before the step.

    Raises:
        ShapeError: If n > l, where the smallest loss is not known.

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
    # Without a gradient (an orthonormal group, or P = 0) there is no step; L_i/0 · 0 would be NaN.
    lengths = torch.where(squares == 0, 0, values / squares).clamp_max(lr)
    return Step(-lengths[:, None] * grad, values.sum())


def check_finite(lr: float) -> None:
    """Refuse an infinite rate, which a step by the gradient alone cannot take.

    Raises:
        OptionError: If it is infinite.
    """
    if math.isinf(lr):
        raise OptionError("lr must be finite for the subgradient rule; got inf; try rule='proximal', which allows it")


def _value_and_grad(phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
    """Give βμ(X) and its gradient: 0 for a finite group whose loss overflows, which stays where it is."""
    kernel = kernels.choose(phi, penalty)
    values, grad = kernel.value_and_grad(phi, penalty, beta)
    known = values.isfinite()
    look = values.device.type == "cpu" and not torch.compiler.is_compiling() and kernels.is_plain(values)
    if look and known.all().item():
        return values, grad
    return values, torch.where((~known & kernel.finite(phi))[:, None], 0, grad)


def check_tall(length: int, members: int) -> None:
    """Refuse groups of more vectors than dimensions, whose smallest loss Polyak's step does not know.

    Raises:
        ShapeError: If n > l.
    """
    if members > length:
        raise ShapeError(
            f"the polyak rule needs groups of n <= l vectors, where the smallest loss is 0; got n = {members}, "
            f"l = {length}; try rule='proximal' or a layout with smaller groups"
        )
