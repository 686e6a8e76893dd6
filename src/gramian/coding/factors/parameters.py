"""The parameters of the model of additive factors, and quantities that are computed from them once."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.typing import Phi

__all__ = ["FactorParameters"]


@dataclass(frozen=True)
class FactorParameters:
    r"""Parameters of x = Σ_i s_i Φ_i a_i + ε, s_i ~ Bernoulli(π_i), a_i ~ N(0, diag v_i), ε ~ N(0, σ²I).

    Every group is orthonormal, Φ_iᵀΦ_i = I. Given the other groups, the posterior of a group that is on therefore has
    independent coefficients of the same variance v σ²/(v + σ²) in every sample.

    Attributes:
        phi: Φ[l, m, n].
        pi: Probabilities π that a group is on, [m].
        variances: Variances v of the coefficients, [m, n]; 0 for an unused direction.
        noise: Variance σ² of the noise.
        mean: Mean of x with all groups off, [l]; None for 0.
    """

    phi: Phi
    pi: Float[Tensor, " m"]
    variances: Float[Tensor, "m n"]
    noise: float
    mean: Float[Tensor, " l"] | None = None

    def centred(self, x: Float[Tensor, "batch l"]) -> Float[Tensor, "batch l"]:
        """Subtract the mean."""
        return x if self.mean is None else x - self.mean

    @cached_property
    def atoms(self) -> Float[Tensor, "atoms l"]:
        """The atoms as rows, ordered by group."""
        return self.phi.flatten(1).mT.contiguous()

    @cached_property
    def gram(self) -> Float[Tensor, "pairs n n"]:
        """The blocks Φ_iᵀΦ_j, in row i·m + j; the blocks of a group with itself are I."""
        _, m, n = self.phi.shape
        blocks = (self.atoms @ self.atoms.mT).unflatten(0, (m, n)).unflatten(2, (m, n)).transpose(1, 2).contiguous()
        blocks[range(m), range(m)] = torch.eye(n).to(blocks)
        return blocks.flatten(0, 1)

    @cached_property
    def shrinkage(self) -> Float[Tensor, "m n"]:
        """The factor v/(v + σ²) from a correlation to the posterior mean of a coefficient."""
        return self.variances / (self.variances + self.noise)

    @cached_property
    def posterior_variances(self) -> Float[Tensor, "m n"]:
        """The posterior variances of the coefficients of a group that is on."""
        return self.noise * self.shrinkage

    @cached_property
    def log_odds(self) -> Float[Tensor, " m"]:
        """The evidence for a group at correlation 0: log π/(1 − π) − ½ Σ_j log(1 + v_j/σ²)."""
        return self.pi.log() - torch.log1p(-self.pi) - 0.5 * torch.log1p(self.variances / self.noise).sum(dim=1)

    @property
    def log_off(self) -> float:
        """The log-probability that every group is off."""
        return float(torch.log1p(-self.pi.double()).sum())

    @property
    def log_normalizer(self) -> float:
        """The normaliser l/2 log 2πσ² of the noise."""
        return 0.5 * self.phi.shape[0] * math.log(2 * math.pi * self.noise)

    def gain(self, correlations: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m"]:
        r"""Compute the gain in evidence from switching each group on.

        Args:
            correlations: c_i = Φ_iᵀr with r the residual without group i.

        Returns:
            ½ Σ_j [c_j²/σ² · v_j/(v_j + σ²) − log(1 + v_j/σ²)] + log π/(1 − π).
        """
        weights = 0.5 * self.shrinkage / self.noise
        return (correlations.square() * weights).sum(dim=-1) + self.log_odds
