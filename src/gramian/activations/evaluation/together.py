"""Find groups that are active together more often than independent groups would be."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from gramian.activations.evaluation.encoded import EncodedSamples

__all__ = ["CoActivation", "coactivation"]

_PAIRS = 1 << 28
"""Largest number of pairs of active groups that are counted, over all samples."""

_COLUMNS = 256
"""Groups whose pairs are counted at once."""

_DEVIATIONS = 4.0


@dataclass(frozen=True, eq=False)
class CoActivation:
    """The groups that are most often active together with each group, the largest lift first.

    Where there are fewer, the index is −1 and the rest is 0.

    Attributes:
        index: Indices of the groups j.
        conditional: P(j active | i active).
        lift: P(i and j active)/(P(i active) P(j active)).
        samples: Number of samples in which pairs were counted.
    """

    index: Int[Tensor, "m k"]
    conditional: Float[Tensor, "m k"]
    lift: Float[Tensor, "m k"]
    samples: int


def coactivation(codes: EncodedSamples, count: int = 6, *, fewest: int = 10) -> CoActivation:
    r"""Find the groups that are active together with each group more often than if they were independent.

    A pair counts if it is active in at least `fewest` samples, and at least four standard deviations of a Poisson law
    above the expected number: c_ij ≥ e_ij + 4 √e_ij with e_ij = c_i c_j/N.

    Args:
        codes: The codes of samples.
        count: Number of groups to find for each.
        fewest: Smallest number of joint samples.

    Cost:
        Σ_s k_s² additions for k_s active groups of sample s; samples beyond a sum of 2²⁸ are not counted.

    Examples:
        >>> from gramian.activations.evaluation import encode_samples
        >>> from gramian.coding import SparseCodes
        >>> x = torch.zeros(100, 3)
        >>> x[:20, :2] = 1  # groups 0 and 1 are active together, or not at all
        >>> x[::2, 2] = 1
        >>> codes = encode_samples([x], torch.eye(3)[..., None], lambda x: SparseCodes.of(x[..., None]))
        >>> both = coactivation(codes, count=1)
        >>> both.index[:, 0].tolist(), both.lift[0].tolist(), both.conditional[0].tolist()
        ([1, 0, -1], [5.0], [1.0])
    """
    m = codes.n_groups
    sample, group = codes.sample.numpy(), codes.group.numpy()
    active = np.bincount(sample, minlength=codes.samples).astype(np.int64)
    samples = max(1, int(np.searchsorted(np.cumsum(active**2), _PAIRS, side="right")))
    kept = sample < samples
    sample, group = sample[kept], group[kept]
    matrix = csr_array((np.ones(len(sample), dtype=np.int32), (sample, group)), shape=(samples, m))
    by_group, totals = matrix.tocsc(), np.bincount(group, minlength=m).astype(np.float64)
    index = np.full((m, count), -1)
    conditional, lift = np.zeros((m, count)), np.zeros((m, count))
    for first in range(0, m, _COLUMNS):
        joint = (by_group[:, first : first + _COLUMNS].T @ matrix).tocoo()
        i, j, together = joint.row + first, joint.col, joint.data.astype(np.float64)
        expected = totals[i] * totals[j] / samples
        often = (i != j) & (together >= fewest) & (together >= expected + _DEVIATIONS * np.sqrt(expected))
        i, j, together, ratio = i[often], j[often], together[often], (together / np.maximum(expected, 1e-30))[often]
        order = np.lexsort((j, -ratio, i))
        i, j, together, ratio = i[order], j[order], together[order], ratio[order]
        rank = np.arange(len(i)) - np.searchsorted(i, i)
        top = rank < count
        index[i[top], rank[top]] = j[top]
        conditional[i[top], rank[top]] = together[top] / totals[i[top]]
        lift[i[top], rank[top]] = ratio[top]
    return CoActivation(torch.from_numpy(index), torch.from_numpy(conditional), torch.from_numpy(lift), samples)
