"""Mean and scale of samples that arrive in parts, without storing them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Statistics"]

_ROWS = 4096
"""Number of samples that are converted to float64 at once."""


@dataclass(frozen=True)
class Statistics:
    r"""The number, mean and scale of samples x ∈ R^l.

    The scale is s = √(E‖x − E x‖² / l), so that (x − E x)/s has variance 1 on average over its entries, and
    E‖(x − E x)/s‖² = l.

    Attributes:
        samples: Number of samples.
        mean: E x, in float64.
        scale: s; 0 for equal samples.

    Examples:
        >>> x = torch.randn(1000, 3) * 5 + 2
        >>> parts = Statistics.of(x[:300]).merge(Statistics.of(x[300:]))
        >>> parts.samples, torch.allclose(parts.mean, x.double().mean(dim=0))
        (1000, True)

    References:
        Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    samples: int
    mean: Float[Tensor, " l"]
    scale: float

    @classmethod
    def empty(cls, length: int) -> "Statistics":
        """Return the statistics of no samples of length l."""
        return cls(0, torch.zeros(length, dtype=torch.float64), 0.0)

    @classmethod
    def of(cls, x: Float[Tensor, "samples l"]) -> "Statistics":
        """Compute the statistics of samples, in two passes over each part of 4096."""
        total = cls.empty(x.shape[1])
        for part in x.split(_ROWS):
            wide = part.double()
            mean = wide.mean(dim=0)
            scale = float((wide - mean).square().mean().sqrt())
            total = total.merge(cls(len(part), mean, scale))
        return total

    def merge(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both sets of samples together."""
        if not self.samples:
            return other
        if not other.samples:
            return self
        samples = self.samples + other.samples
        share = other.samples / samples
        difference = other.mean - self.mean
        between = float(difference.square().mean()) * share * (1 - share)
        square = self.scale**2 * (1 - share) + other.scale**2 * share + between
        return Statistics(samples, self.mean + share * difference, square**0.5)
