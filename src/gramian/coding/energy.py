"""The energy of codes: −log p(x, a) up to constants, for noise of unit variance and a prior."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gramian.coding.model import Codes, reconstruct
from gramian.coding.priors import PRIORS, Prior
from gramian.typing import Phi

__all__ = ["Energy", "energy"]


@dataclass(frozen=True)
class Energy:
    """The two terms of the negative log joint density, one number for each sample.

    Attributes:
        reconstruction: ½‖x − Σ_i Φ_i a_i‖².
        sparsity: −log p(a) up to a constant; λ Σ_i ‖a_i‖ for the group Laplace prior.
    """

    reconstruction: Float[Tensor, " batch"]
    sparsity: Float[Tensor, " batch"]

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """The sum of the terms."""
        return self.reconstruction + self.sparsity


def energy(
    x: Float[Tensor, "batch l"], phi: Phi, codes: Codes, lam: float, prior: Prior = PRIORS["group_laplace"]
) -> Energy:
    """Compute the energy −log p(x, a), up to constants, for noise of unit variance and a prior.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n].
        codes: Codes [batch, m, n].
        lam: Sparsity λ > 0.
        prior: The prior.

    Returns:
        Both terms of the energy of each sample.

    Examples:
        >>> import torch
        >>> phi = torch.eye(2)[:, None, :]
        >>> energy(torch.tensor([[3.0, 4.0]]), phi, torch.tensor([[[3.0, 4.0]]]), lam=2.0).total.tolist()
        [10.0]
    """
    error = x - reconstruct(phi, codes)
    return Energy(0.5 * error.square().sum(dim=-1), prior.value(codes, lam))
