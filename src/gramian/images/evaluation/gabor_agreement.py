"""Measure how similar the Gabor functions within groups are, with random groups as control."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gramian.images.evaluation.gabor import GaborFit

__all__ = ["GaborAgreement", "GaborSpread", "group_agreement"]

Waves = Float[Tensor, "5 groups members"]
"""Row, column, orientation, frequency and phase of Gabor functions."""

_MOST_PAIRS = 2_000_000
"""Largest number of pairs that the control compares."""


@dataclass(frozen=True)
class GaborSpread:
    """The differences of two atoms of a group: medians over all pairs of well-fitted atoms within groups.

    Attributes:
        position: Distance of the envelopes' centres, pixels.
        orientation: Angle between the orientations, degrees in [0, 90].
        frequency: Ratio of the frequencies, octaves.
        quadrature: Distance of the phase difference modulo 180° from 90°, degrees; about 45 for unrelated phases.
        resultant: |mean exp(2iφ)| over a group's atoms, median over groups: 0 for phases spread evenly over 180°,
            1 for equal ones.
    """

    position: float
    orientation: float
    frequency: float
    quadrature: float
    resultant: float


@dataclass(frozen=True)
class GaborAgreement:
    """The differences of Gabor functions within learned groups and within random groups.

    Attributes:
        threshold: Explained fraction above which an atom counts as well fitted.
        atoms: Number of well-fitted atoms; the others are skipped.
        pairs: Number of pairs of well-fitted atoms within one group.
        learned: Differences within the learned groups.
        random_groups: Differences within random groups of the same atoms, each with the same number of fitted atoms.
    """

    threshold: float
    atoms: int
    pairs: int
    learned: GaborSpread
    random_groups: GaborSpread


@torch.no_grad()
def group_agreement(fit: GaborFit, *, threshold: float = 0.5, draws: int = 20, seed: int = 0) -> GaborAgreement:
    """Compare the Gabor functions of every two atoms of a group, and of random groups of the same atoms.

    Phases are compared at one place: halfway between the two atoms, or, for the resultant, at the mean of the group's
    centres. If position, orientation, frequency and widths agree, quadrature follows from orthogonality; then the last
    two measures add no information.

    Args:
        fit: Gabor fits of a dictionary.
        threshold: Explained fraction above which an atom counts as well fitted.
        draws: Largest number of random regroupings in the control; fewer if there are millions of pairs.
        seed: Seed of the random groups.

    Returns:
        Medians for the learned groups and for random ones; NaN if no group has two well-fitted atoms.

    Cost:
        O(draws·m·n²) flops.

    Examples:
        >>> import torch
        >>> same = torch.ones(3, 2)
        >>> phases = torch.tensor([0.0, torch.pi / 2]).expand(3, 2)
        >>> fit = GaborFit(same, same, same, same, phases, same, same, same, same)
        >>> learned = group_agreement(fit).learned
        >>> learned.position, round(learned.quadrature, 3), round(learned.resultant, 3)
        (0.0, 0.0, 0.0)
    """
    good = fit.explained > threshold
    n, within = good.shape[1], good.sum(dim=1)
    numbers = (fit.row, fit.column, fit.orientation, fit.frequency, fit.phase)
    waves = torch.stack([values.flatten().double() for values in numbers])
    places = good.flatten().nonzero()[:, 0]
    order = torch.arange(good.numel(), device=good.device)
    draws = max(1, min(draws, _MOST_PAIRS // max(1, good.numel() * (n - 1) // 2)))
    generator = torch.Generator().manual_seed(seed)
    mixed = order.repeat(draws, 1)
    for draw in range(draws):
        # Permute only well-fitted atoms: a resultant depends on their number per group, which must not change.
        mixed[draw, places] = places[torch.randperm(len(places), generator=generator, device="cpu").to(places.device)]
    return GaborAgreement(
        threshold=threshold,
        atoms=len(places),
        pairs=int((within * (within - 1) // 2).sum()),
        learned=_spread(waves[:, order.view(-1, n)], good),
        random_groups=_spread(waves[:, mixed.view(-1, n)], good.repeat(draws, 1)),
    )


def _spread(waves: Waves, good: Bool[Tensor, "groups members"]) -> GaborSpread:
    j, k = torch.triu_indices(waves.shape[2], waves.shape[2], offset=1, device=waves.device)
    one, other = waves[:, :, j], waves[:, :, k]
    pairs = good[:, j] & good[:, k]
    down, right, turn, _, _ = one - other
    turned = turn.remainder(math.pi)
    middle = (one[:2] + other[:2]) / 2
    between = _phases(one, middle, one[2]) - _phases(other, middle, one[2])
    weight = good.double()
    count = weight.sum(dim=1, keepdim=True).clamp_min(1)
    centre = (waves[:2] * weight).sum(dim=2, keepdim=True) / count
    doubled = torch.exp(2j * _phases(waves, centre, waves[2, :, :1]))
    resultant = (doubled * weight).sum(dim=1).abs() / count[:, 0]
    return GaborSpread(
        position=_median(torch.hypot(down, right)[pairs]),
        orientation=_median(torch.rad2deg(torch.minimum(turned, math.pi - turned))[pairs]),
        frequency=_median((one[3] / other[3]).log2().abs()[pairs]),
        quadrature=_median((torch.rad2deg(between).remainder(180) - 90).abs()[pairs]),
        resultant=_median(resultant[good.sum(dim=1) > 1]),
    )


def _phases(
    waves: Waves, place: Float[Tensor, "2 groups #members"], orientation: Float[Tensor, "groups #members"]
) -> Float[Tensor, "groups members"]:
    """Return phases at a place, after reversing waves that point away from `orientation` (0 and π are neighbours)."""
    row, column, angle, frequency, phase = waves
    along = angle.cos() * (place[1] - column) + angle.sin() * (place[0] - row)
    there = phase + 2 * math.pi * frequency * along
    return torch.where((angle - orientation).cos() < 0, -there, there)


def _median(numbers: Float[Tensor, " count"]) -> float:
    # The mean of the middle two; torch.quantile does the same, but refuses more than 2²⁴ numbers.
    ordered, count = numbers.sort().values, numbers.numel()
    return float(ordered[(count - 1) // 2] + ordered[count // 2]) / 2 if count else math.nan
