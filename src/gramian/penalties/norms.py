"""Norms of X as a whole: Frobenius, spectral, and the largest inner product (mutual coherence).

The prox residual C_τ of a norm is the projection on the ball of radius τ of its dual norm.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from gramian.errors import OptionError
from gramian.penalties.base import Penalty, derived, off_diagonal
from gramian.typing import GroupMatrix

__all__ = ["Coherence", "Frobenius", "Spectral", "compose", "decompose", "project_on_l1_ball"]


@dataclass(frozen=True)
class Frobenius(Penalty):
    r"""μ(X) = ‖X‖_F, G = X/‖X‖_F, C_τ(X) = X·min(1, τ/‖X‖_F). Its one kink is at X = 0, where G = 0.

    The prox makes a whole group orthonormal at once, or scales its X.

    Args:
        diagonal: Whether lengths are penalised too, or angles only.

    Examples:
        >>> import torch
        >>> from gramian.penalties import Frobenius
        >>> Frobenius().value(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).item()
        5.0

    References:
        Zhang et al., "AdaLoRA: adaptive budget allocation for parameter-efficient fine-tuning", ICLR 2023, and PEFT,
        whose regulariser is this norm of AAᵀ − I and BᵀB − I.
    """

    diagonal: bool = True

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        return torch.linalg.vector_norm(self.penalized(X), dim=(-2, -1))

    def subgradient(self, X: GroupMatrix) -> GroupMatrix:
        size = self.value(X)[..., None, None]
        return self.penalized(X) / torch.where(size > 0, size, 1)

    def prox_residual(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        size = self.value(X)[..., None, None]
        return self.penalized(X) * torch.where(size > tau, tau / size, 1)


@dataclass(frozen=True)
class Spectral(Penalty):
    r"""μ(X) = ‖X‖₂ = max|λ|, G = sign(λ)vvᵀ, C_τ(X) the projection of X on the nuclear-norm ball of radius τ.

    Where several |λ| are largest, G is their mean, the member of least norm. Other packages estimate the largest |λ|
    by a few power iterations; here it is exact, from an eigendecomposition of each n × n matrix.

    Args:
        diagonal: Whether lengths are penalised too; if not, X has a zero diagonal, and there is no closed prox.

    Cost:
        About 10·n³ flops for each group.

    Examples:
        >>> import torch
        >>> from gramian.penalties import Spectral
        >>> Spectral().value(torch.tensor([[3.0, 0.0], [0.0, -4.0]])).item()
        4.0

    References:
        Bansal, Chen and Wang, "Can we gain more from orthogonality regularizations in training deep networks?",
        NeurIPS 2018 ("spectral restricted isometry property", SRIP).
    """

    diagonal: bool = True

    has_prox = derived(lambda self: self.diagonal)

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        return _largest(decompose(self.penalized(X))[0].abs())

    def subgradient(self, X: GroupMatrix) -> GroupMatrix:
        values, vectors = decompose(self.penalized(X))
        sizes = values.abs()
        top = _largest(sizes)[..., None]
        # Eigenvalues that differ by rounding only count as equal.
        tied = (sizes >= top * (1 - 4 * X.shape[-1] * torch.finfo(X.dtype).eps)) & (top > 0)
        share = tied.to(X.dtype) / tied.sum(dim=-1, keepdim=True).clamp_min(1)
        return self.penalized(compose(values.sign() * share, vectors))

    def prox_residual(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        if not self.diagonal:
            raise OptionError(f"{self!r} has no closed prox; try rule='polyak' or diagonal=True")
        values, vectors = decompose(X)
        radius = tau if tau.ndim == 0 else tau[..., 0]
        projected = project_on_l1_ball(values, radius)
        # An X inside the ball is returned without rounding.
        inside = (values.abs().sum(dim=-1, keepdim=True) <= radius)[..., None]
        return torch.where(inside, X, compose(projected, vectors))


@dataclass(frozen=True)
class Coherence(Penalty):
    r"""μ(X) = max_{j≠k}|X_jk|, G = sign(X_jk) at the largest pair, half in each of its two places.

    Lengths are free; for vectors of length 1 it is the mutual coherence. Where several pairs are largest, G is their
    mean, the member of least norm. C_τ(X) is the projection of the off-diagonal part on the l1 ball of radius τ.

    Examples:
        >>> import torch
        >>> from gramian.penalties import Coherence
        >>> Coherence().value(torch.tensor([[9.0, 0.5], [0.5, 9.0]])).item()
        0.5

    References:
        Bansal, Chen and Wang, "Can we gain more from orthogonality regularizations in training deep networks?",
        NeurIPS 2018 ("mutual coherence", MC); Donoho and Huo, "Uncertainty principles and ideal atomic
        decomposition", 2001.
    """

    diagonal = False

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        return _largest(_symmetric_off_diagonal(X).abs().flatten(-2))

    def subgradient(self, X: GroupMatrix) -> GroupMatrix:
        off = _symmetric_off_diagonal(X)
        sizes = off.abs()
        top = _largest(sizes.flatten(-2))[..., None, None]
        tied = (sizes >= top) & (top > 0)
        return off.sign() * tied / tied.sum(dim=(-2, -1), keepdim=True).clamp_min(1)

    def prox_residual(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        off = _symmetric_off_diagonal(X)
        radius = tau if tau.ndim == 0 else tau[..., 0]
        return project_on_l1_ball(off.flatten(-2), radius).unflatten(-1, X.shape[-2:])


def decompose(X: GroupMatrix) -> tuple[Float[Tensor, "... n"], GroupMatrix]:
    """Return eigenvalues, in increasing order, and eigenvectors; NaN for a matrix that is not finite."""
    wide = X if X.dtype in (torch.float32, torch.float64) else X.float()
    finite = wide.isfinite().all(dim=-1).all(dim=-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[..., None, None], wide, 0))
    return torch.where(finite[..., None], values, torch.nan).to(X.dtype), vectors.to(X.dtype)


def compose(values: Float[Tensor, "... n"], vectors: GroupMatrix) -> GroupMatrix:
    """Return the matrix with these eigenvalues and eigenvectors, exactly symmetric."""
    with torch.autocast(vectors.device.type, enabled=False):  # autocast would multiply in 16 bits
        X = (vectors * values[..., None, :]) @ vectors.mT
    return (X + X.mT) / 2


def project_on_l1_ball(x: Float[Tensor, "... k"], tau: Tensor) -> Float[Tensor, "... k"]:
    r"""Project x on the l1 ball of radius τ: the nearest y with Σ|y| ≤ τ. τ = ∞ gives x itself.

    `tau` broadcasts against x: a 0-dimensional tensor, or of shape [..., 1].

    Cost:
        k·log k, for sorting.

    References:
        Duchi, Shalev-Shwartz, Singer and Chandra, "Efficient projections onto the l1-ball for learning in high
        dimensions", ICML 2008.
    """
    sizes = x.abs()
    inside = sizes.sum(dim=-1, keepdim=True) <= tau
    ranked = sizes.sort(dim=-1, descending=True).values
    counts = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    # The threshold if only the k largest remain nonzero; the right one is the largest, for they rise and then fall.
    thresholds = (ranked.cumsum(dim=-1) - torch.where(inside, 0, tau)) / counts
    threshold = _largest(thresholds.clamp_min(0))[..., None]
    return torch.where(inside, x, x.sign() * (sizes - threshold).clamp_min(0))


def _largest(sizes: Float[Tensor, "... k"]) -> Float[Tensor, "..."]:
    """Return the largest of non-negative numbers, 0 if there are none."""
    return pad(sizes, (0, 1)).amax(dim=-1)


def _symmetric_off_diagonal(X: GroupMatrix) -> GroupMatrix:
    """Return (X + Xᵀ)/2 with a zero diagonal; rounding must not make one place of a pair larger than the other."""
    return off_diagonal(X / 2 + X.mT / 2)
