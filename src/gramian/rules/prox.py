"""The proximal rule: a step by the prox of the penalty, which does not oscillate at a kink."""

import torch
from torch import Tensor

from gramian.kernels import chunks, norms, reference
from gramian.kernels.base import FusedStep, Kernel, is_plain
from gramian.kernels.dispatch import choose
from gramian.kernels.gpu.operators import OPERATORS
from gramian.penalties import Penalty
from gramian.rules.base import Step, coordinatewise, groupwise
from gramian.rules.operators import traced_change, traced_step_
from gramian.typing import GroupMatrices, LearningRate, Phi, Scalar

__all__ = ["proximal", "proximal_"]

_ROOM = 1 << 24
"""By how many numbers the part of X in memory may exceed Φ: 64 MiB in float32."""


@groupwise
@coordinatewise
def proximal(phi: Phi, *, lr: LearningRate, beta: float, penalty: Penalty) -> Step:
    r"""Step by the prox of the penalty along P(I − S): P ← P − PC/2w with C = C_τw(X) and τ = 4ηβ.

    For l1 it is the subgradient step where |X_jk| ≥ τw, and a Newton–Schulz step, which squares the residual, where
    |X_jk| < τw. So it does not oscillate at the kink, needs no decaying step length, and converges to rounding. τ = ∞
    is the normal step of optimisers with hard constraints.

    w is 1 near the manifold, where ‖X‖_F ≤ 0.1. Elsewhere w = max(1, ‖PᵀP‖₂), which bounds the error of the model
    X − 2wS of the change, so that the step is valid at any scale. S is scaled down to ‖S‖₂ ≤ ½, which keeps I − S
    invertible: a step preserves the rank. Above n = 16 both norms are estimated from below, and the bounds hold up to
    the error of the estimates.

    Args:
        phi: Φ[l, m, n].
        lr: Learning rate η ≥ 0; may be infinite.
        beta: Strength β ≥ 0.
        penalty: The penalty μ.

    Returns:
        The change of Φ and the loss before the step.

    Cost:
        4·m·l·n² flops and O(m·n²) for the guard; two tensors of the size of Φ and 64 MiB, or m·n² numbers for a
        penalty that is not entry-wise.

    Examples:
        >>> import torch, gramian
        >>> from gramian.penalties import L1
        >>> phi = torch.full((1, 1, 1), 1.01)  # a residual of 0.02 becomes −¾ of its square
        >>> gramian.residual(phi + proximal(phi, lr=1.0, beta=1.0, penalty=L1()).change).item()
        -0.0003...
    """
    kernel = choose(phi, penalty)
    if kernel is OPERATORS:
        return Step(*traced_change(phi, lr=lr, beta=beta, penalty=penalty))
    fused = _fused(kernel, phi, penalty, lr, beta, in_place=False)
    if fused is None:
        return _step(kernel, phi, lr, beta, penalty)
    losses: list[Scalar] = []
    for which in fused.failed:
        step = _step(kernel, phi[:, which], lr, beta, penalty.select_groups(which))
        fused.out[:, which] = step.change
        losses.append(step.loss)
    return Step(fused.out, _fused_loss(fused, beta, losses))


def _step(kernel: Kernel, phi: Phi, lr: LearningRate, beta: float, penalty: Penalty) -> Step:
    if _streams(kernel, phi):
        steps = [_streamed(kernel, P, lr, beta, penalty) for P in phi.to(reference.compute_dtype(phi.dtype)).unbind(1)]
        return Step(torch.stack([D for D, _ in steps], dim=1).to(phi.dtype), _total([loss for _, loss in steps]))
    changes: list[Tensor] = []
    losses: list[Scalar] = []
    for part, its_penalty in _parts(kernel, phi, penalty):
        minus_S, loss = _factor(kernel, part, lr, beta, its_penalty)
        changes.append(kernel.apply(part, minus_S).to(phi.dtype))
        losses.append(loss)
    return Step(changes[0] if len(changes) == 1 else torch.cat(changes, dim=1), _total(losses))


def proximal_(phi: Phi, *, lr: LearningRate, beta: float, penalty: Penalty) -> Scalar:
    """Make the step of `proximal` in place; a 16-bit Φ is stepped in float32 and rounded once.

    Returns:
        The loss before the step.

    Cost:
        Beyond Φ, at most another tensor of its size and 64 MiB, for an entry-wise penalty.
    """
    kernel = choose(phi, penalty)
    if kernel is OPERATORS:
        return traced_step_(phi, lr=lr, beta=beta, penalty=penalty)
    fused = _fused(kernel, phi, penalty, lr, beta, in_place=True)
    if fused is not None:
        parts = [(phi[:, which], penalty.select_groups(which)) for which in fused.failed]
        return _fused_loss(fused, beta, [_round_step_(kernel, part, lr, beta, mu) for part, mu in parts])
    if phi.dtype != reference.compute_dtype(phi.dtype):
        return _round_step_(kernel, phi, lr, beta, penalty)
    losses: list[Scalar] = []
    if _streams(kernel, phi):
        for P in phi.unbind(1):
            D, loss = _streamed(kernel, P, lr, beta, penalty)
            P.add_(D)
            losses.append(loss)
    else:
        for part, its_penalty in _parts(kernel, phi, penalty):
            minus_S, loss = _factor(kernel, part, lr, beta, its_penalty)
            kernel.add_apply_(part, minus_S)
            losses.append(loss)
    return _total(losses)


def _fused(
    kernel: Kernel,
    phi: Phi,
    penalty: Penalty,
    lr: LearningRate,
    beta: float,
    *,
    in_place: bool,
) -> FusedStep | None:
    """Let the kernel step; it reads a learning rate on the device there."""
    if isinstance(lr, Tensor) and beta > 0:
        return kernel.proximal_step(phi, penalty, 4 * beta, in_place=in_place, rate=lr.to(phi.device))
    return kernel.proximal_step(phi, penalty, float(_tau(lr, beta)), in_place=in_place)


def _fused_loss(fused: FusedStep, beta: float, losses: list[Scalar]) -> Scalar:
    """Return the loss of a fused step, with the losses of the groups that it left out."""
    for which in fused.failed:
        fused.values[which] = 0
    total = fused.values.sum() if fused.total is None or fused.failed else fused.total
    return _total([total if beta == 1 else beta * total, *losses])


def _round_step_(kernel: Kernel, phi: Phi, lr: LearningRate, beta: float, penalty: Penalty) -> Scalar:
    """Step in the compute dtype and write the result, rounded once."""
    wide = phi.to(reference.compute_dtype(phi.dtype))
    step = _step(kernel, wide, lr, beta, penalty)
    phi.copy_(wide + step.change)
    return step.loss


def _tau(lr: LearningRate, beta: float) -> LearningRate:
    """Return τ = 4ηβ, which is 0 for β = 0 at any η."""
    if isinstance(lr, Tensor):
        return 4 * beta * lr if beta > 0 else 0.0
    return 4 * lr * beta if beta > 0 and lr > 0 else 0.0


def _parts(kernel: Kernel, phi: Phi, penalty: Penalty) -> list[tuple[Tensor, Penalty]]:
    """Split the groups so that the X of one part fits into `_ROOM`, each part with the penalty of its groups."""
    length, m, n = phi.shape
    if m * n * n <= m * length * n + _ROOM:
        return [(phi, penalty)]
    if torch.compiler.is_compiling() or not is_plain(phi) or not kernel.splits_groups:
        return [(phi, penalty)]
    step = max(1, (m * length * n + _ROOM) // (n * n))
    slices = [slice(first, first + step) for first in range(0, m, step)]
    return [(phi[:, which], penalty.select_groups(which)) for which in slices]


def _total(losses: list[Scalar]) -> Scalar:
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _factor(kernel: Kernel, phi: Phi, lr: LearningRate, beta: float, penalty: Penalty) -> tuple[GroupMatrices, Scalar]:
    """Compute −S of every group, and the loss."""
    M = kernel.residual(phi)  # X, overwritten by −S: one matrix, however large
    loss = beta * chunks.value(M, penalty).sum()
    tau = _tau(lr, beta)
    sizes = chunks.frobenius(M)
    # Reading a number here does not wait for a device.
    readable = M.device.type == "cpu" and M.numel() > 0 and not torch.compiler.is_compiling() and is_plain(M)
    shrinks = penalty.minimal_at_zero  # ‖C‖_F ≤ ‖X‖_F
    if readable and shrinks and sizes.max().item() <= norms.NEAR:
        # The common case in training: w = 1, and ‖C‖₂ ≤ ‖X‖_F needs no bound.
        tau = torch.as_tensor(tau, dtype=M.dtype, device=M.device)
        shrunk = chunks.prox_residual_(M, penalty, tau)
        return chunks.scale_(shrunk, -0.5), loss
    near = (sizes <= (norms.NEAR if shrinks else -1))[:, None, None]
    diagonal = M.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(1)
    w = torch.where(near, 1, norms.spectral_norm(M).clamp_min(1)[:, None, None])
    diagonal.sub_(1)
    C = chunks.prox_residual_(M, penalty, tau * w)
    within = (torch.linalg.vector_norm(C, dim=(1, 2)) <= w[:, 0, 0])[:, None, None]
    if readable and (within & w.isfinite()).all().item():
        return C.mul_(-0.5 / w), loss  # ‖C‖₂ ≤ ‖C‖_F ≤ w
    # A group's step must not depend on the other groups: where ‖C‖_F ≤ w, no other norm limits it.
    size = torch.where(near | within, w, torch.maximum(w, norms.spectral_norm(C)[:, None, None]))
    # 0·∞ makes all entries of an infinite group NaN.
    C.mul_(-0.5 / size * (1 + 0 * size))
    over = ~size.isfinite()
    if readable and not over.any().item():
        return C, loss
    # A finite group whose Gram matrix overflows is halved, the largest change that a step may make.
    over &= kernel.finite(phi)[:, None, None]
    half = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device) / -2
    return torch.where(over, half, C), loss


def _streams(kernel: Kernel, phi: Phi) -> bool:
    """Tell whether X is streamed in panels: it is larger than Φ, and no group can be near the manifold."""
    return kernel.streams_residual and phi.shape[2] > phi.shape[0] and phi.numel() > 0


def _streamed(kernel: Kernel, P: Tensor, lr: LearningRate, beta: float, penalty: Penalty) -> tuple[Tensor, Scalar]:
    """Compute −PS and the loss of one group with n > l.

    Each panel of C is formed once. So the estimate of ‖C‖₂ starts from a sample of its columns, formed beforehand, and
    is refined by one power step over the panels.
    """
    w = norms.gram_norm(P).clamp_min(1)
    tau = _tau(lr, beta) * w
    sampled = kernel.residual_columns(P, norms.sample(P))
    norm = norms.StreamingNorm(chunks.prox_residual_(sampled[None], penalty, tau)[0])

    def prox_residual(first: int, X: Tensor) -> Tensor:
        C = chunks.prox_residual_(X[None], penalty, tau)[0]
        norm.update(first, C)
        return C

    product = P.new_empty(P.shape)
    value = kernel.stream(P, product, penalty, prox_residual, 1.0)
    size = torch.maximum(w, norm.norm())
    product.mul_(-0.5 / size * (1 + 0 * size))
    over = ~size.isfinite() & P.isfinite().all()  # as in _factor
    return torch.where(over, P / -2, product), beta * value
