r"""Select groups by a false discovery rate: those that noise of the measured level does not explain."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gramian.coding.encoders.products import Rows, selected_products, weighted_sum
from gramian.coding.encoders.selection import Candidates, Selection, first, running_mean_
from gramian.coding.inference.discoveries import p_values

__all__ = ["Discoveries", "benjamini_hochberg", "fitted"]

_SPARE = 4

_STEPS = 8
"""Steps of conjugate gradients; few suffice, because the groups of a sample have different directions."""


class Discoveries(Selection):
    r"""Outside training, keep the groups whose ‖Φ_iᵀr‖² is not explained by noise of the measured variance.

    r is the sample without the other groups: with orthonormal frames, Φ_iᵀr = Φ_iᵀ(x − Φa) + a_i, where a are the codes
    of the `active` groups of largest pre-codes, and in a second round those of the groups that were kept. If group i is
    not in the sample, ‖Φ_iᵀr‖² is σ²χ² with n degrees of freedom; groups are kept by the rule of Benjamini and
    Hochberg. In training, the `active` groups of largest norm are active, and σ² is the running mean of the variance
    that they leave unexplained.

    Args:
        n_groups: Number of groups m.
        active: Number of active groups in training.
        rate: False discovery rate α.

    Attributes:
        variance: Variance σ² of the noise in each entry of a sample.

    References:
        Benjamini and Hochberg, "Controlling the false discovery rate", 1995.
    """

    variance: Tensor

    def __init__(self, n_groups: int, active: int, *, rate: float) -> None:
        super().__init__(n_groups, active, _SPARE * active)
        self.rate = rate
        self.register_buffer("variance", torch.ones(()))

    def forward(self, candidates: Candidates, x: Float[Tensor, "batch l"], frames: Rows) -> Float[Tensor, "batch k n"]:
        strongest = candidates.values * first(candidates.values, self.active)
        if self.training:
            return strongest
        # Once with the strongest groups, and once with the groups that are kept: groups of the sample beyond the
        # `active` strongest would otherwise make others look present.
        codes = strongest
        for _ in range(2):
            kept = self.discovered(self.alone(candidates, codes, x, frames))
            codes = fitted(candidates, kept, x, frames)
        return codes

    def alone(
        self, candidates: Candidates, codes: Float[Tensor, "batch k n"], x: Float[Tensor, "batch l"], frames: Rows
    ) -> Float[Tensor, "batch k n"]:
        """Compute the code Φ_iᵀr of each candidate, where r is the sample without the other groups that have codes."""
        error = x - weighted_sum(codes, frames, candidates.groups)
        return selected_products(error, frames, candidates.groups) + codes

    def discovered(self, alone: Float[Tensor, "batch k n"]) -> Bool[Tensor, "batch k"]:
        """Return which candidates noise does not explain."""
        power = alone.square().sum(dim=2)
        gains = power.double() / self.variance.double().clamp_min(torch.finfo(torch.float64).tiny)
        p = p_values(gains, torch.full_like(gains, alone.shape[2]), 1.0)
        return benjamini_hochberg(p, m=self.n_groups, rate=self.rate)

    def observed(
        self,
        candidates: Candidates,
        codes: Float[Tensor, "batch k n"],
        error: Float[Tensor, "batch l"],
    ) -> Float[Tensor, ""]:
        fitted = (codes != 0).any(dim=2).sum(dim=1) * codes.shape[2]
        return error.square().sum() / (error.shape[1] - fitted).clamp_min(1).sum()

    def track_(self, statistic: Float[Tensor, ""]) -> None:
        running_mean_(self.variance, statistic, self.seen)


def fitted(
    candidates: Candidates, kept: Bool[Tensor, "batch k"], x: Float[Tensor, "batch l"], frames: Rows
) -> Float[Tensor, "batch k n"]:
    """Fit the codes of the groups that are kept, by some steps of conjugate gradients from 0.

    The error falls in each step, so it never exceeds that of zero codes.

    Cost:
        Two products of the batch with the candidates' frames in each step.
    """
    mask = kept[..., None]
    gradient = selected_products(x, frames, candidates.groups) * mask
    codes, direction = torch.zeros_like(gradient), gradient
    power = gradient.square().sum(dim=(1, 2), keepdim=True)
    tiny = torch.finfo(x.dtype).tiny
    for _ in range(_STEPS):
        image = weighted_sum(direction, frames, candidates.groups)
        curvature = image.square().sum(dim=1)[:, None, None]
        rate = power / curvature.clamp_min(tiny)
        codes = codes + rate * direction
        gradient = gradient - rate * selected_products(image, frames, candidates.groups) * mask
        previous, power = power, gradient.square().sum(dim=(1, 2), keepdim=True)
        direction = gradient + power / previous.clamp_min(tiny) * direction
    return codes


def benjamini_hochberg(p: Float[Tensor, "batch k"], *, m: int, rate: float) -> Bool[Tensor, "batch k"]:
    """Return which of the p-values are discoveries; those of groups that are not candidates count as 1.

    Args:
        p: The p-values of the candidates of each sample.
        m: Number of groups.
        rate: False discovery rate α.
    """
    ordered = p.sort(dim=1).values
    line = rate / m * torch.arange(1, p.shape[1] + 1, device=p.device)
    limit = torch.where(ordered <= line, ordered, -1.0).amax(dim=1, keepdim=True)
    return p <= limit
