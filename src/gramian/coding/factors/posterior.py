"""The posterior of the groups of each sample, in the form that estimators return."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.factors.inference import Candidates
from gramian.coding.factors.parameters import FactorParameters

__all__ = ["FactorPosterior", "dense", "draw_codes"]


@dataclass(frozen=True)
class FactorPosterior:
    """The factorised posterior Π_i q(s_i) q(a_i | s_i) of samples.

    Attributes:
        inclusion: Probabilities that a group is on, q(s_i = 1), [samples, m]; 0 for groups that are not candidates.
        means: Means of a_i given that group i is on, [samples, m, n]; 0 for groups that are not candidates.
        variances: Variances of a_i given that group i is on, [m, n]. They are the same for all samples, because the
            frames are orthonormal.
    """

    inclusion: Float[Tensor, "samples m"]
    means: Float[Tensor, "samples m n"]
    variances: Float[Tensor, "m n"]

    @property
    def codes(self) -> Float[Tensor, "samples m n"]:
        """The posterior means of s_i a_i."""
        return self.inclusion[..., None] * self.means

    def __repr__(self) -> str:
        samples, m, n = self.means.shape
        return f"FactorPosterior(samples={samples}, m={m}, n={n}, active={float(self.inclusion.sum(dim=1).mean()):.3g})"


def dense(parameters: FactorParameters, candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Return the inclusion probabilities [batch, m] and means [batch, m, n] of all groups."""
    _, m, n = parameters.phi.shape
    groups = candidates.groups
    inclusion = candidates.inclusion.new_zeros(len(groups), m).scatter_(1, groups, candidates.inclusion)
    means = candidates.means.new_zeros(len(groups), m, n)
    return inclusion, means.scatter_(1, groups[..., None].expand(-1, -1, n), candidates.means)


def draw_codes(count: int, pi: Tensor, variances: Tensor, generator: torch.Generator) -> Tensor:
    """Draw s_i a_i from the prior, [count, m, n] in float64."""
    m, n = variances.shape
    on = torch.rand(count, m, 1, generator=generator, dtype=torch.float64, device="cpu") < pi.double()[:, None]
    normal = torch.randn(count, m, n, generator=generator, dtype=torch.float64, device="cpu")
    return on * normal * variances.double().sqrt()
