"""The proximal rule: a step by the prox of the penalty, which does not chatter at a kink."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gramian import kernels
from gramian.kernels import Kernel, Panel, Reduced, chunks, dense, norms, panel
from gramian.penalties import Penalty
from gramian.rules.base import Step, coordinatewise, groupwise
from gramian.typing import GroupMatrices, Phi, Scalar

__all__ = ["proximal", "proximal_"]

_NEAR = 0.1
"""The ‖X‖_F up to which w is 1: there ‖PᵀP‖₂ ≤ 1.1, and the descent holds for a w up to 20 % low."""

_ROOM = 1 << 24
"""By how many numbers the X held at a time may surpass Φ: 64 MiB in float32."""


@groupwise
@coordinatewise
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
        4·m·l·n² flops and O(m·n²) for the guard; two tensors of the size of Φ and 64 MiB, or m·n² numbers for a
        penalty that is not entry-wise.

    Examples:
        >>> import torch, gramian
        >>> from gramian.penalties import L1
        >>> phi = torch.full((1, 1, 1), 1.01)  # a residual of 0.02 becomes −¾ of its square
        >>> gramian.residual(phi + proximal(phi, lr=1.0, beta=1.0, penalty=L1()).change).item()
        -0.0003...
    """
    kernel = kernels.choose(phi, penalty)
    if _streams(kernel, phi):
        steps = [_streamed(P, lr, beta, penalty) for P in phi.to(dense.compute_dtype(phi.dtype)).unbind(1)]
        return Step(torch.stack([D for D, _ in steps], dim=1).to(phi.dtype), _total([loss for _, loss in steps]))
    changes: list[Tensor] = []
    losses: list[Scalar] = []
    for which, part in _few(kernel, phi):
        minus_S, loss = _factor(kernel, part, lr, beta, penalty.of_groups(which))
        changes.append(kernel.apply(part, minus_S).to(phi.dtype))
        losses.append(loss)
    return Step(changes[0] if len(changes) == 1 else torch.cat(changes, dim=1), _total(losses))


def proximal_(phi: Phi, *, lr: float, beta: float, penalty: Penalty) -> Scalar:
    """Step as `proximal` does, but in place.

    Returns:
        The loss before the step.

    Cost:
        Beyond Φ, at most another tensor of its size and 64 MiB, for an entry-wise penalty.
    """
    kernel = kernels.choose(phi, penalty)
    losses: list[Scalar] = []
    if _streams(kernel, phi):
        for P in phi.unbind(1):
            D, loss = _streamed(P, lr, beta, penalty)
            P.add_(D)
            losses.append(loss)
    else:
        for which, part in _few(kernel, phi):
            minus_S, loss = _factor(kernel, part, lr, beta, penalty.of_groups(which))
            kernel.add_apply_(part, minus_S)
            losses.append(loss)
    return _total(losses)


def _few(kernel: Kernel, phi: Phi) -> Iterator[tuple[slice, Phi]]:
    """Give as many groups at a time as there is room for their X."""
    length, m, n = phi.shape
    together = torch.compiler.is_compiling() or not kernels.is_plain(phi) or isinstance(kernel, Reduced)
    if together or m * n * n <= m * length * n + _ROOM:
        yield slice(m), phi
        return
    step = max(1, (m * length * n + _ROOM) // (n * n))
    for first in range(0, m, step):
        which = slice(first, first + step)
        yield which, phi[:, which]


def _total(losses: list[Scalar]) -> Scalar:
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _tau(lr: float, beta: float) -> float:
    return 4 * lr * beta if beta > 0 and lr > 0 else 0.0


def _factor(kernel: Kernel, phi: Phi, lr: float, beta: float, penalty: Penalty) -> tuple[GroupMatrices, Scalar]:
    """Give −S of every group and the loss."""
    M = kernel.residual(phi)  # X, and in the end −S: one matrix, however large
    loss = beta * chunks.value(M, penalty, kernel.piece).sum()
    tau = _tau(lr, beta)
    sizes = chunks.frobenius(M, kernel.piece)
    # To look costs nothing here.
    look = M.device.type == "cpu" and M.numel() > 0 and not torch.compiler.is_compiling() and kernels.is_plain(M)
    if look and penalty.centred and sizes.max().item() <= _NEAR:
        # Training spends its time here: w = 1, and ‖C‖₂ ≤ ‖X‖_F needs no guard.
        shrunk = chunks.shrink_(M, penalty, M.new_tensor(tau), kernel.piece)
        return chunks.scale_(shrunk, -0.5, kernel.piece), loss
    near = (sizes <= (_NEAR if penalty.centred else -1))[:, None, None]
    diagonal = M.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(1)
    w = torch.where(near, 1, norms.spectral_norm(M).clamp_min(1)[:, None, None])
    diagonal.sub_(1)
    C = chunks.shrink_(M, penalty, tau * w)
    if look and ((torch.linalg.vector_norm(C, dim=(1, 2)) <= w[:, 0, 0]) & w[:, 0, 0].isfinite()).all().item():
        return C.mul_(-0.5 / w), loss  # ‖C‖₂ ≤ ‖C‖_F ≤ w
    size = torch.where(near, 1, torch.maximum(w, norms.spectral_norm(C)[:, None, None]))
    # 0·∞ makes the whole of an infinite group NaN.
    C.mul_(-0.5 / size * (1 + 0 * size))
    over = ~size.isfinite()
    if look and not over.any().item():
        return C, loss
    # A finite group whose Gram matrix overflows is halved, the most that a step may shrink it.
    over &= kernel.finite(phi)[:, None, None]
    half = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device) / -2
    return torch.where(over, half, C), loss


def _streams(kernel: Kernel, phi: Phi) -> bool:
    """Tell whether X is better not held: it is large, larger than Φ, and no group can be near the manifold."""
    return isinstance(kernel, Panel) and phi.shape[2] > phi.shape[0] and phi.numel() > 0


def _streamed(P: Tensor, lr: float, beta: float, penalty: Penalty) -> tuple[Tensor, Scalar]:
    """Give −PS and the loss of one group with n > l.

    Only panels of C are seen, each once. So the estimate of ‖C‖₂ begins with some of its columns, formed beforehand,
    and takes one power step on the way.
    """
    w = norms.gram_norm(P).clamp_min(1)
    tau = _tau(lr, beta) * w
    sampled = panel.residual_columns(P, norms.sample(P))
    watched = norms.Watched(chunks.shrink_(sampled[None], penalty, tau)[0])
    value = P.new_zeros(())

    def shrink(first: int, X: Tensor) -> Tensor:
        value.add_(panel.value(X, penalty))
        C = chunks.shrink_(X[None], penalty, tau)[0]
        watched.see(first, C)
        return C

    product = P.new_empty(P.shape)
    panel.stream(P, product, shrink, 1.0)
    size = torch.maximum(w, watched.norm())
    product.mul_(-0.5 / size * (1 + 0 * size))
    over = ~size.isfinite() & P.isfinite().all()  # as in _factor
    return torch.where(over, P / -2, product), beta * value
