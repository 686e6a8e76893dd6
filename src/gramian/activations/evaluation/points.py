"""Select the samples of each group that the page draws in its plane, and those that it also lists."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.activations.evaluation.encoded import EncodedSamples
from gramian.activations.evaluation.geometry import CodePlanes

__all__ = ["Points", "select_points"]

_INNER = 0.3
"""Fraction of a group's largest radius above which the direction of a code in the plane is meaningful."""


@dataclass(frozen=True, eq=False)
class Points:
    """Some samples of each group, one group after the other; in each group the listed samples come first, by angle.

    Attributes:
        starts: First point of each group, and the number of points.
        listed: Number of listed samples of each group.
        sample: Index of each point's sample.
        position: Its coordinates in the plane of its group.
        strength: Its amplitude ‖a_i‖.
    """

    starts: Int[Tensor, " ends"]
    listed: Int[Tensor, " m"]
    sample: Int[Tensor, " points"]
    position: Float[Tensor, "points 2"]
    strength: Float[Tensor, " points"]


def select_points(
    codes: EncodedSamples, planes: CodePlanes, *, listed: int = 12, drawn: int = 120, seed: int = 0
) -> Points:
    """Select samples of each group.

    The plane is divided into `listed` equal sectors about 0, and the sample farthest out in each is listed, unless it
    is nearer to 0 than 0.3 of the farthest of the group. For empty sectors, the strongest other samples are listed. The
    other points are drawn at random, up to `drawn`.

    Args:
        codes: The codes of samples.
        planes: The planes of the groups.
        listed: Largest number of listed samples of a group.
        drawn: Largest number of points of a group.
        seed: Seed of the random points.

    Cost:
        Three sorts of all entries of the codes.
    """
    group, m = codes.group.numpy(), codes.n_groups
    strength = codes.strengths.numpy()
    x, y = planes.positions.numpy().T
    angle, radius = np.arctan2(y, x) % (2 * np.pi), np.hypot(x, y)
    farthest = np.zeros(m, dtype=radius.dtype)
    np.maximum.at(farthest, group, radius)
    sector = np.floor(angle / (2 * np.pi) * listed).astype(np.int64) % listed
    order = np.lexsort((-radius, sector, group))
    cell = group[order] * listed + sector[order]
    outermost = np.zeros(len(group), dtype=bool)
    outermost[order[np.flatnonzero(np.diff(cell, prepend=-1))]] = True
    outermost &= radius >= _INNER * farthest[group]
    in_list = np.zeros(len(group), dtype=bool)
    order = np.lexsort((-strength, ~outermost, group))
    in_list[order[_ranks(group) < listed]] = True
    order = np.lexsort((np.random.default_rng(seed).random(len(group)), ~in_list, group))
    kept = order[_ranks(group) < drawn]
    kept = kept[np.lexsort((angle[kept], ~in_list[kept], group[kept]))]
    counts = np.bincount(group[kept], minlength=m)
    index = torch.from_numpy(kept)
    return Points(
        starts=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
        listed=torch.from_numpy(np.bincount(group[kept][in_list[kept]], minlength=m)),
        sample=codes.sample[index],
        position=planes.positions[index],
        strength=torch.from_numpy(strength)[index],
    )


def _ranks(ascending: np.ndarray) -> np.ndarray:
    """Return the place of each element among the equal ones."""
    return np.arange(len(ascending)) - np.searchsorted(ascending, ascending)
