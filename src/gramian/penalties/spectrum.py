"""Functions of the eigenvalues of symmetric matrices, and the projection on an l1 ball that some of them need."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from gramian.typing import GroupMatrix

__all__ = ["compose", "decompose", "largest", "onto_l1_ball"]


def decompose(X: GroupMatrix) -> tuple[Float[Tensor, "... n"], GroupMatrix]:
    """Give eigenvalues, in rising order, and eigenvectors; of a matrix that is not finite, NaN."""
    wide = X if X.dtype in (torch.float32, torch.float64) else X.float()
    finite = wide.isfinite().all(dim=-1).all(dim=-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[..., None, None], wide, 0))
    return torch.where(finite[..., None], values, torch.nan).to(X.dtype), vectors.to(X.dtype)


def compose(values: Float[Tensor, "... n"], vectors: GroupMatrix) -> GroupMatrix:
    """Give the matrix with these eigenvalues and eigenvectors, exactly symmetric."""
    with torch.autocast(vectors.device.type, enabled=False):  # it would multiply in 16 bits
        X = (vectors * values[..., None, :]) @ vectors.mT
    return (X + X.mT) / 2


def largest(sizes: Float[Tensor, "... k"]) -> Float[Tensor, "..."]:
    """Give the largest of numbers that are not negative, 0 of none."""
    return pad(sizes, (0, 1)).amax(dim=-1)


def onto_l1_ball(x: Float[Tensor, "... k"], tau: Tensor) -> Float[Tensor, "... k"]:
    r"""Project on the l1 ball of radius τ: the nearest y with Σ|y| ≤ τ. τ = ∞ gives x itself.

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
    # What is cut off if the largest k stay: the threshold is the largest of these, for they rise and then fall.
    cuts = (ranked.cumsum(dim=-1) - torch.where(inside, 0, tau)) / counts
    cut = largest(cuts.clamp_min(0))[..., None]
    return torch.where(inside, x, x.sign() * (sizes - cut).clamp_min(0))
