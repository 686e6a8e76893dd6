"""The data of a histogram and a picture of a tensor's Gram residuals; its size does not depend on the tensor's."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray

from gramian.kernels import reference
from gramian.report import curves, pictures
from gramian.typing import Phi

__all__ = ["Portrait", "portrait"]

_SIDE = 256
"""Side of a mosaic of Gram matrices without labels, in pixels."""

_LABELLED = 144
"""Largest number of groups that are all drawn, each with its number."""

_LABELLED_SIDE = 320
"""Side of a mosaic with labels, in pixels."""

_QUANTILE = 0.02
"""Fraction of the pixels that have the darkest colour."""

_SMALLEST = 1e-300
"""Smallest value of the brightest colour, so that a tenth of it is not 0."""

_NUMBERS = 1 << 22
"""Entries of Gram matrices that are in memory at a time."""


@dataclass(frozen=True)
class Portrait:
    """The data of the histogram and the picture of one parameter.

    Attributes:
        lengths: Counts of |X_jj| between `curves.RESIDUAL_EDGES`.
        angles: Counts of |X_jk|, j < k, between the same edges.
        picture: Picture of |X| of some or all groups.
        mosaic: Places of the groups in the picture; blocks have a margin for a label if all groups are drawn.
        groups: The indices of these groups, in the order of the picture.
        limits: |X| of the darkest and of the brightest colour.
    """

    lengths: Int64[ndarray, " bins"]
    angles: Int64[ndarray, " bins"]
    picture: pictures.Pixels
    mosaic: pictures.Mosaic
    groups: tuple[int, ...]
    limits: tuple[float, float]


@torch.no_grad()
def portrait(phi: Phi) -> Portrait:
    """Compute the histogram of the Gram residuals of a tensor, and the picture of its groups.

    Up to 144 groups are drawn in their order, each with room for its number; of more groups, those with the largest
    |X|. The scale of the picture is logarithmic, from a low quantile of its pixels to the largest.

    Args:
        phi: Φ[l, m, n].

    Returns:
        Data of a size that does not depend on Φ.
    """
    _, m, n = phi.shape
    chunk = max(1, _NUMBERS // (n * n))
    edges = curves.RESIDUAL_EDGES
    above = torch.ones(n, n, dtype=torch.bool, device=phi.device).triu(1)
    lengths = angles = np.zeros(len(edges) - 1, dtype=np.int64)
    worst: list[torch.Tensor] = []
    for first in range(0, m, chunk):
        sizes = reference.residual(phi[:, first : first + chunk].double()).abs().nan_to_num(torch.inf, torch.inf)
        worst.append(sizes.amax(dim=(1, 2)))
        within = sizes.clamp(edges[0], edges[-1])
        lengths = lengths + np.histogram(within.diagonal(dim1=1, dim2=2).numpy(), edges)[0]
        angles = angles + np.histogram(within[:, above].numpy(), edges)[0]
    labelled = 1 < m <= _LABELLED
    if labelled:
        groups = torch.arange(m)
    else:
        groups = torch.cat(worst).argsort(descending=True, stable=True)[: max(1, _SIDE // (n + 1)) ** 2]
    sizes = _blocks(phi, groups) if labelled else pictures.residual_sizes(phi, groups, side=_SIDE)
    margin = math.ceil(0.03 * _LABELLED_SIDE) if labelled else 0
    limits = _limits(sizes)
    return Portrait(
        lengths, angles, pictures.residual_picture(sizes, limits=limits, margin=margin),
        pictures.Mosaic(len(groups), sizes.shape[-1], margin), tuple(groups.tolist()), limits,
    )  # fmt: skip


def _blocks(phi: Phi, groups: torch.Tensor) -> torch.Tensor:
    """Return |X| of groups in blocks, scaled so that the mosaic is about as large as one with labels."""
    n = phi.shape[2]
    room = max(1, _LABELLED_SIDE // math.ceil(math.sqrt(len(groups))) - 1)
    if n > room:
        return pictures.residual_sizes(phi, groups, side=math.ceil(n / math.ceil(n / room)))
    repeats = room // n
    return pictures.residual_sizes(phi, groups).repeat_interleave(repeats, 1).repeat_interleave(repeats, 2)


def _limits(sizes: torch.Tensor) -> tuple[float, float]:
    """Return the ends of a logarithmic scale: a low quantile and the largest of the values, at least a factor of 10."""
    values = sizes[sizes.isfinite() & (sizes > 0)]
    if not len(values):
        return pictures.RESIDUAL_RANGE
    low, high = float(torch.quantile(values, _QUANTILE)), max(float(values.max()), _SMALLEST)
    return min(low, high / 10), high
