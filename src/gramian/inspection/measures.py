"""Statistics of groups of vectors: residuals, lengths, angles and singular values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gramian.errors import DataError
from gramian.kernels import reference
from gramian.typing import Phi

__all__ = ["Statistics", "statistics"]

_NUMBERS = 1 << 22
"""Entries of Gram matrices that are in memory at a time."""


@dataclass(frozen=True)
class Statistics:
    """How far the groups of a tensor are from orthonormal, with lengths and angles also measured separately.

    Attributes:
        mean: Mean |X_jk| of the Gram residual.
        largest: Largest |X_jk|.
        smallest_norm: Length of the shortest vector.
        mean_norm: Mean length of the vectors.
        largest_norm: Length of the longest vector.
        mean_cosine: Mean |cosine| of two vectors of a group; 0 if groups have one vector.
        coherence: Largest |cosine| of two vectors of a group; 0 if groups have one vector.
        condition: Largest condition number of a group, the ratio of its extreme singular values; infinite if its rank
            is deficient.
        effective_rank: Exponential of the entropy of the normalised singular values, at most n; the mean over groups.
    """

    mean: float
    largest: float
    smallest_norm: float
    mean_norm: float
    largest_norm: float
    mean_cosine: float
    coherence: float
    condition: float
    effective_rank: float


@torch.no_grad()
def statistics(phi: Phi) -> Statistics:
    """Measure how far groups are from orthonormal.

    Args:
        phi: Φ[l, m, n].

    Returns:
        The statistics, from Gram matrices in float64; all of them NaN if an entry is not finite.

    Raises:
        DataError: If Φ is empty.

    Examples:
        >>> import torch
        >>> measured = statistics(2 * torch.eye(4)[:, None, :2])
        >>> measured.largest, measured.mean_norm, measured.coherence, measured.effective_rank
        (3.0, 2.0, 0.0, 2.0)
    """
    if phi.numel() == 0:
        raise DataError(f"a tensor must have entries to be measured; got shape {list(phi.shape)}")
    _, m, n = phi.shape
    chunk = max(1, _NUMBERS // (n * n))
    chunks = [_measure(phi[:, first : first + chunk]) for first in range(0, m, chunk)]
    sums = torch.stack([sums for sums, _ in chunks]).sum(dim=0)
    extremes = torch.stack([extremes for _, extremes in chunks]).amax(dim=0)
    if bool(torch.isnan(sums).any()):
        return Statistics(*(float("nan"),) * 9)
    residuals, norms, cosines, ranks = sums.tolist()
    largest, shortest, longest, coherence, condition = extremes.tolist()
    return Statistics(
        mean=residuals / (m * n * n), largest=largest, smallest_norm=-shortest, mean_norm=norms / (m * n),
        largest_norm=longest, mean_cosine=cosines / max(1, m * n * (n - 1)), coherence=coherence, condition=condition,
        effective_rank=ranks / m,
    )  # fmt: skip


def _measure(phi: Phi) -> tuple[Tensor, Tensor]:
    """Measure a chunk of groups.

    Returns:
        The sums of |X|, of the lengths, of |cosines| and of the effective ranks; and the maxima of |X|, of the negative
        lengths, of the lengths, of |cosines| and of the condition numbers.
    """
    P = reference.group_matrices(phi.double())
    if not bool(torch.isfinite(P).all()):
        return P.new_full((4,), torch.nan), P.new_full((5,), torch.nan)
    n = P.shape[-1]
    tiny, eps = torch.finfo(P.dtype).tiny, torch.finfo(P.dtype).eps
    X = reference.residual(phi.double())  # infinite where a product overflows
    # Angles, condition and rank do not depend on the scale of a group: divide by a power of two, which is exact.
    exponents = torch.frexp(P.abs().amax(dim=(1, 2), keepdim=True)).exponent
    scaled = torch.ldexp(P, -exponents)
    lengths = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    norms = torch.ldexp(lengths, exponents)
    directions = scaled / lengths.clamp_min(tiny)
    cosines = (directions.mT @ directions).abs().clamp_max(1)
    cosines.diagonal(dim1=1, dim2=2).zero_()
    values = torch.linalg.eigvalsh(scaled.mT @ scaled).clamp_min(0).sqrt()
    largest = values[:, -1:]
    # A singular value of 0 is computed as up to the square root of the rounding error of the largest eigenvalue.
    values = torch.where(values > largest * (n * eps) ** 0.5, values, 0)
    condition = (largest[:, 0] / values[:, 0]).amax()  # x / 0 is infinite
    share = values / values.sum(dim=1, keepdim=True).clamp_min(tiny)
    ranks = torch.exp(-torch.special.xlogy(share, share).sum(dim=1))
    sums = torch.stack([X.abs().sum(), norms.sum(), cosines.sum(), ranks.sum()])
    maxima = [X.abs().amax(), -norms.amin(), norms.amax(), cosines.amax(), condition.nan_to_num(torch.inf, torch.inf)]
    return sums, torch.stack(maxima)
