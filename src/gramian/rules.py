r"""Update rules: from Φ and a penalty to a change of Φ.

Each rule is a pure function of Φ[l, m, n]; `step_` brings it to a parameter, in place, through a layout.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gramian import kernels
from gramian.errors import OptionError, ShapeError
from gramian.kernels import Kernel, chunks, dense, norms
from gramian.layout import Layout, as_phi, from_phi
from gramian.objective import as_number, check_beta
from gramian.penalties import Penalty, as_penalty
from gramian.typing import GroupMatrices, Phi, Scalar

__all__ = ["RULES", "Rule", "Step", "as_rule", "check_lr", "polyak", "proximal", "step_", "subgradient"]


_NEAR = 0.1
"""The ‖X‖_F up to which w is 1: there ‖PᵀP‖₂ ≤ 1.1, and the descent holds for a w up to 20 % low."""


@dataclass(frozen=True)
class Step:
    """What one application of a rule gives: the change of Φ, and the loss before it."""

    change: Phi
    loss: Scalar


@runtime_checkable
class Rule(Protocol):
    """An update rule: a pure function from Φ to a `Step`, which leaves adding the change to its caller."""

    def __call__(self, phi: Phi, *, lr: float, beta: float, penalty: Penalty) -> Step:
        """Apply the rule once; `phi` is not written to."""
        ...


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
    if math.isinf(lr):
        raise OptionError("lr must be finite for the subgradient rule; got inf; try rule='proximal', which allows it")
    values, grad = kernels.choose(phi, penalty).value_and_grad(phi, penalty, beta)
    return Step(-lr * grad, values.sum())


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
    length, _, members = phi.shape
    if members > length:
        raise ShapeError(
            f"the polyak rule needs groups of n <= l vectors, where the smallest loss is 0; got n = {members}, "
            f"l = {length}; try rule='proximal' or a layout with smaller groups"
        )
    values, grad = kernels.choose(phi, penalty).value_and_grad(phi, penalty, beta)
    squares = grad.square().sum(dim=(0, 2))
    # Without a gradient (an orthonormal group, or P = 0) there is no step; L_i/0 · 0 would be NaN.
    lengths = torch.where(squares == 0, 0, values / squares).clamp_max(lr)
    return Step(-lengths[:, None] * grad, values.sum())


def proximal(phi: Phi, *, lr: float, beta: float, penalty: Penalty) -> Step:
    r"""Step by the prox of the penalty along P(I − S): P ← P − PC/2w with C = C_τw(X) and τ = 4ηβ.

    For l1, where |X_jk| ≥ τw it is the subgradient step, and where |X_jk| < τw it is a Newton–Schulz step, which
    squares the residual: it does not chatter, needs no decaying step, and ends at rounding. τ = ∞ is the normal step
    of hard-constraint optimisers.

    w is 1 near the manifold, where ‖X‖_F ≤ 0.1. Elsewhere w = max(1, ‖PᵀP‖₂) keeps the model X − 2wS of the change
    honest, so that the step is right at any scale. S is shrunk to ‖S‖₂ ≤ ½, which keeps I − S invertible: no rank is
    lost. Above n = 16 both norms are estimates from below, and so is what follows from them.

    Args:
        phi: Φ[l, m, n].
        lr: Learning rate η ≥ 0; may be infinite.
        beta: Strength β ≥ 0.
        penalty: The penalty μ.

    Returns:
        The change of Φ and the loss before the step.

    Cost:
        4·m·l·n² flops and O(m·n²) for the guard; m·n² + l·m·n numbers.

    Examples:
        >>> import torch, gramian
        >>> from gramian.penalties import L1
        >>> phi = torch.full((1, 1, 1), 1.01)  # a residual of 0.02 becomes −¾ of its square
        >>> gramian.residual(phi + proximal(phi, lr=1.0, beta=1.0, penalty=L1()).change).item()
        -0.0003...
    """
    kernel, minus_S, loss = _proximal_factor(phi, lr, beta, penalty)
    return Step(kernel.apply(phi, minus_S).to(phi.dtype), loss)


def proximal_(phi: Phi, *, lr: float, beta: float, penalty: Penalty) -> Scalar:
    """Step as `proximal` does, but in place: a large Φ has no second tensor of its size beside it.

    Returns:
        The loss before the step.
    """
    kernel, minus_S, loss = _proximal_factor(phi, lr, beta, penalty)
    kernel.add_apply_(phi, minus_S)
    return loss


def _proximal_factor(phi: Phi, lr: float, beta: float, penalty: Penalty) -> tuple[Kernel, GroupMatrices, Scalar]:
    kernel = kernels.choose(phi, penalty)
    M = kernel.residual(phi)  # X, and in the end −S: one matrix, however large
    loss = beta * chunks.value(M, penalty).sum()
    tau = 4 * lr * beta if beta > 0 and lr > 0 else 0.0
    near = (torch.linalg.vector_norm(M.flatten(1), dim=1) <= _NEAR)[:, None, None]
    if M.device.type == "cpu" and not torch.compiler.is_compiling() and bool(near.all()):
        # Training spends its time here: w = 1, and ‖C‖₂ ≤ ‖X‖_F needs no guard.
        chunks.shrink_(M, penalty, tau * torch.ones_like(M[:, :1, :1]))
        return kernel, M.mul_(-0.5), loss
    diagonal = M.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(1)
    w = torch.where(near, 1, norms.spectral_norm(M).clamp_min(1)[:, None, None])
    diagonal.sub_(1)
    chunks.shrink_(M, penalty, tau * w)
    size = torch.where(near, 1, torch.maximum(w, norms.spectral_norm(M)[:, None, None]))
    # 0·∞ makes the whole of an infinite group NaN.
    return kernel, M.mul_(-0.5 / size * (1 + 0 * size)), loss


RULES: dict[str, Rule] = {"proximal": proximal, "polyak": polyak, "subgradient": subgradient}
"""The rules that have a name."""


def step_(
    phi: Tensor,
    *,
    lr: float,
    beta: float = 1.0,
    rule: str | Rule = "proximal",
    penalty: str | Penalty = "l1",
    layout: Layout | str | None = None,
) -> Scalar:
    r"""Make one update towards orthonormal groups, in place.

    Use it after an optimiser's own step, with the same learning rate, as AdamW does with weight decay: the penalty
    then passes through no moment estimate and no loss scale. A group with a NaN or an infinite entry becomes NaN;
    other groups are untouched by it.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout; written to.
        lr: Learning rate η ≥ 0; infinite is allowed for 'proximal' and 'polyak'.
        beta: Strength β ≥ 0. For l1, inner products closer to zero than 4ηβ go to zero quadratically.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        layout: Which axes are vector, group and member.

    Returns:
        The loss before the step, a 0-dimensional tensor.

    Raises:
        DtypeError, LayoutError: As for `gramian.loss`.
        OptionError: If `lr` is negative or NaN, β is negative or not finite, or there is no such rule or penalty.
        ShapeError: If the rule is 'polyak' and n > l.

    Cost:
        That of the rule. The 16-bit formats are stepped in float32 and rounded once.

    Examples:
        >>> import torch, gramian
        >>> weight = torch.nn.Linear(64, 32).weight
        >>> for _ in range(20):
        ...     before = gramian.step_(weight, lr=0.1, layout="o i -> i () o")  # rows
        >>> gramian.residual(weight, layout="o i -> i () o").abs().max().item() < 1e-6
        True
    """
    update = as_rule(rule)
    with torch.no_grad():
        groups = as_phi(phi, layout)
        lr, beta, penalty = check_lr(lr), check_beta(beta), as_penalty(penalty)
        wide = groups.to(dense.compute_dtype(groups.dtype))
        if update is proximal and _same_memory(wide, phi):
            return proximal_(groups, lr=lr, beta=beta, penalty=penalty)
        step = update(wide, lr=lr, beta=beta, penalty=penalty)
        if wide.dtype == phi.dtype:
            phi.add_(from_phi(step.change, phi, layout))
        else:
            phi.copy_(from_phi(wide + step.change, phi, layout))
        return step.loss


def _same_memory(groups: Phi, phi: Tensor) -> bool:
    if torch.compiler.is_compiling() or not kernels.is_plain(phi):
        return False
    return groups.untyped_storage().data_ptr() == phi.untyped_storage().data_ptr()


def as_rule(rule: str | Rule) -> Rule:
    """Turn a name or a `Rule` into a `Rule`.

    Raises:
        OptionError: If there is no rule of that name.
    """
    if callable(rule):
        return rule
    if not isinstance(rule, str) or rule not in RULES:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"rule must be one of {', '.join(map(repr, RULES))} or a function; got {rule!r}")
    return RULES[rule]


def check_lr(lr: float) -> float:
    """Return a learning rate as a float if it is at least zero; infinity is allowed.

    Raises:
        OptionError: If it is negative or NaN.
    """
    value = as_number(lr, "lr")
    if not value >= 0:
        raise OptionError(f"lr must be at least 0; got {lr!r}; try lr=0.1")
    return value
