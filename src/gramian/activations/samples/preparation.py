"""Convert activations to the samples that a dictionary encodes, and back."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.activations.store.reader import Activations
from gramian.errors import DataError

__all__ = ["Preparation"]


@dataclass(frozen=True)
class Preparation:
    r"""Subtract the mean and divide by the scale: x ↦ (x − E x)/s, so that E‖x‖² = l.

    Attributes:
        mean: E x.
        scale: s = √(E‖x − E x‖² / l).

    Examples:
        >>> from gramian.activations import open_activations
        >>> x = 3 * torch.randn(500, 8) + 7
        >>> prepared = Preparation.fit(open_activations(x)).prepare(x)
        >>> round(prepared.square().mean().item(), 4), prepared.mean().abs().item() < 1e-4
        (1.0, True)
    """

    mean: Float[Tensor, " l"]
    scale: float

    @property
    def length(self) -> int:
        """Length l of a sample."""
        return len(self.mean)

    @classmethod
    def fit(cls, activations: Activations, *, centre: bool = True) -> "Preparation":
        """Fit a preparation to samples, from the statistics of their store if it has them.

        Args:
            activations: The samples.
            centre: Whether to subtract the mean.

        Raises:
            DataError: If the samples are all equal, or not finite.
        """
        statistics = activations.statistics
        mean, scale = statistics.mean, statistics.scale
        if not centre:
            mean, scale = torch.zeros_like(mean), float((scale**2 + mean.square().mean()).sqrt())
        if not scale > 1e-30:
            raise DataError(f"samples must differ to be scaled; got {statistics.samples} of scale {scale:g}")
        return cls(mean.float(), scale)

    def stored_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a dictionary file stores, by name."""
        return {"mean": self.mean}

    def stored_values(self) -> dict[str, float]:
        """Return the values that a dictionary file stores in its metadata, by name."""
        return {"scale": self.scale}

    def prepare(self, x: Float[Tensor, "samples l"]) -> Float[Tensor, "samples l"]:
        """Convert activations to samples."""
        return (x - self.mean.to(x)) / self.scale

    def restore(self, samples: Float[Tensor, "samples l"]) -> Float[Tensor, "samples l"]:
        """Convert samples, or their reconstruction, to activations."""
        return samples * self.scale + self.mean.to(samples)
