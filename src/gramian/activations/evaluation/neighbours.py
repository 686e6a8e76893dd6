"""The nearest subspaces of each group of a dictionary, by principal angles."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.coding.evaluation.subspaces import Subspaces, overlaps, subspaces
from gramian.typing import Phi

__all__ = ["NearestSubspaces", "nearest_subspaces"]

_ROWS = 128
"""Groups that are compared with all others at once."""

_TOL = 1e-4
"""Directions whose singular value is at most this fraction of the largest of the dictionary are dead."""


@dataclass(frozen=True, eq=False)
class NearestSubspaces:
    """The nearest subspaces of each group, nearest first; where there are fewer, the index is −1 and the rest is 0.

    Attributes:
        index: Indices of the groups.
        overlap: Mean squared cosine of the principal angles, from 0 to 1.
        smallest: Smallest principal angle, in degrees.
        largest: Largest principal angle, in degrees.
    """

    index: Int[Tensor, "m k"]
    overlap: Float[Tensor, "m k"]
    smallest: Float[Tensor, "m k"]
    largest: Float[Tensor, "m k"]


@torch.no_grad()
def nearest_subspaces(phi: Phi, count: int = 6) -> NearestSubspaces:
    """Find the groups whose subspaces overlap most with that of each group.

    The overlap is that of `gramian.coding.match`, the mean of cos²θ over the principal angles θ of two subspaces.
    Groups without a direction have no subspace, and are left out.

    Args:
        phi: The dictionary Φ[l, m, n]; need not be orthonormal.
        count: Number of groups to find for each.

    Cost:
        2·l·(m·n)² flops in float32; memory for the bases in float64 and for blocks of 64 MiB, never for all pairs.

    Examples:
        >>> frames = torch.eye(6)[:, [0, 1, 1, 2, 3, 4]].view(6, 3, 2)  # three planes, two of which share a line
        >>> near = nearest_subspaces(frames, count=1)
        >>> near.index[:2, 0].tolist(), near.overlap[0].tolist(), near.smallest[0].tolist()
        ([1, 0], [0.5], [0.0])
    """
    m = phi.shape[1]
    spans = subspaces(phi.detach().cpu(), _TOL)
    index = torch.full((m, count), -1)
    overlap, smallest, largest = (torch.zeros(m, count, dtype=torch.float64) for _ in range(3))
    found = min(count, len(spans) - 1)
    for first in range(0, len(spans) if found > 0 else 0, _ROWS):
        rows = torch.arange(first, min(first + _ROWS, len(spans)))
        part = Subspaces(spans.bases[:, rows], spans.dimensions[rows], spans.index[rows])
        values = torch.from_numpy(overlaps(part, spans))
        values[torch.arange(len(rows)), rows] = -1
        top = values.topk(found, dim=1)
        groups = part.index
        index[groups, :found] = spans.index[top.indices]
        overlap[groups, :found] = top.values.clamp(0, 1)
        for place in range(found):
            angles = _angles(part, spans, top.indices[:, place])
            smallest[groups, place], largest[groups, place] = angles
    return NearestSubspaces(index, overlap, smallest, largest)


def _angles(part: Subspaces, spans: Subspaces, others: Int[Tensor, " rows"]) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest principal angle between pairs of subspaces, in degrees."""
    products = torch.einsum("lrn,lrp->rnp", part.bases, spans.bases[:, others])
    cosines = torch.linalg.svdvals(products).clamp(0, 1)
    last = torch.minimum(part.dimensions, spans.dimensions[others]) - 1
    return tuple(torch.rad2deg(each.acos()) for each in (cosines[:, 0], cosines.gather(1, last[:, None])[:, 0]))  # pyright: ignore[reportReturnType]
