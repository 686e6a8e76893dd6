"""The factor −S of the proximal step, P ← P − PS, as torch computes it from X."""

from collections.abc import Callable

import torch
from torch import Tensor

from gramian.kernels import chunks, norms
from gramian.kernels.base import is_plain
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, LearningRate

__all__ = ["NEAR", "step_factor_"]

NEAR = 0.1
"""The ‖X‖_F up to which w is 1: there ‖PᵀP‖₂ ≤ 1.1, and a step still descends if w is up to 20 % too low."""


def step_factor_(
    X: GroupMatrices, penalty: Penalty, tau: LearningRate, chunk_size: int, finite: Callable[[], Tensor]
) -> GroupMatrices:
    """Compute −S of every group; X may be overwritten with it: one matrix, however large.

    Args:
        X: X of every group.
        penalty: The penalty.
        tau: τ = 4ηβ for w = 1.
        chunk_size: How many entries are processed at a time.
        finite: A function that tells for every group whether all entries of P are finite; called where X is not.

    Returns:
        −S as `gramian.rules.prox` defines it. Half of −I for a finite group whose X is not finite, and NaN for a group
        that is not finite.
    """
    sizes = chunks.frobenius(X, chunk_size)
    # Reading a number here does not wait for a device.
    readable = X.device.type == "cpu" and X.numel() > 0 and not torch.compiler.is_compiling() and is_plain(X)
    shrinks = penalty.minimal_at_zero  # ‖C‖_F ≤ ‖X‖_F
    if readable and shrinks and sizes.max().item() <= NEAR:
        # The common case in training: w = 1, and ‖C‖₂ ≤ ‖X‖_F needs no bound.
        tau = torch.as_tensor(tau, dtype=X.dtype, device=X.device)
        shrunk = chunks.prox_residual_(X, penalty, tau, chunk_size)
        return chunks.scale_(shrunk, -0.5, chunk_size)
    near = (sizes <= (NEAR if shrinks else -1))[:, None, None]
    diagonal = X.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(1)
    w = torch.where(near, 1, norms.spectral_norm(X).clamp_min(1)[:, None, None])
    diagonal.sub_(1)
    C = chunks.prox_residual_(X, penalty, tau * w)
    within = (torch.linalg.vector_norm(C, dim=(1, 2)) <= w[:, 0, 0])[:, None, None]
    if readable and (within & w.isfinite()).all().item():
        return C.mul_(-0.5 / w)  # ‖C‖₂ ≤ ‖C‖_F ≤ w
    # A group's step must not depend on the other groups: where ‖C‖_F ≤ w, no other norm limits it.
    size = torch.where(near | within, w, torch.maximum(w, norms.spectral_norm(C)[:, None, None]))
    # 0·∞ makes all entries of an infinite group NaN.
    C.mul_(-0.5 / size * (1 + 0 * size))
    over = ~size.isfinite()
    if readable and not over.any().item():
        return C
    # A finite group whose Gram matrix overflows is halved, the largest change that a step may make.
    over &= finite()[:, None, None]
    half = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device) / -2
    return torch.where(over, half, C)
