r"""The group prior: p(a) ∝ exp(−λ Σ_i ‖a_i‖₂) over the codes a of m groups of n coefficients."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.typing import Phi

__all__ = ["Codes", "Energy", "dictionary_matrix", "energy", "group_norms", "group_shrink", "reconstruct"]

Codes = Float[Tensor, "batch m n"]
"""Coefficients: for each sample, n numbers in each of m groups."""


@dataclass(frozen=True)
class Energy:
    """The two terms of the negative log joint density, one number for each sample.

    Attributes:
        reconstruction: ½‖x − Σ_i Φ_i a_i‖².
        sparsity: λ Σ_i ‖a_i‖₂.
    """

    reconstruction: Float[Tensor, " batch"]
    sparsity: Float[Tensor, " batch"]

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """The sum of the terms."""
        return self.reconstruction + self.sparsity


def group_norms(codes: Codes) -> Float[Tensor, "batch m"]:
    """Give the amplitudes ‖a_i‖₂ of the groups.

    Examples:
        >>> import torch
        >>> group_norms(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])).tolist()
        [[5.0, 0.0]]
    """
    return torch.linalg.vector_norm(codes, dim=-1)


def group_shrink(codes: Codes, threshold: float) -> Codes:
    r"""Shorten every group by the threshold: the prox of θ Σ_i ‖a_i‖₂, group soft thresholding.

    Args:
        codes: Coefficients [batch, m, n].
        threshold: Length θ ≥ 0 taken off each ‖a_i‖; shorter groups become exactly 0.

    Returns:
        A new tensor of the shape of `codes`.

    Cost:
        Memory-bound: O(batch·m·n).

    Examples:
        >>> import torch
        >>> group_shrink(torch.tensor([[[3.0, 4.0], [0.3, 0.4]]]), 1.0).tolist()
        [[[2.4..., 3.2...], [0.0, 0.0]]]

    References:
        Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006.
    """
    lengths = torch.linalg.vector_norm(codes, dim=-1, keepdim=True)
    # Not codes·(1 − θ/s): its rounding leaves ±6e-8 where there must be 0, and every group counts as active.
    return codes * ((lengths - threshold).clamp_min(0) / lengths.clamp_min(torch.finfo(codes.dtype).tiny))


def dictionary_matrix(phi: Phi) -> Float[Tensor, "l atoms"]:
    """Give Φ[l, m, n] as one matrix of all atoms, group by group: a view where strides allow."""
    return phi.reshape(phi.shape[0], -1)


def reconstruct(phi: Phi, codes: Codes) -> Float[Tensor, "batch l"]:
    """Give Σ_i Φ_i a_i for every sample."""
    return codes.flatten(1) @ dictionary_matrix(phi).mT


def energy(x: Float[Tensor, "batch l"], phi: Phi, codes: Codes, lam: float) -> Energy:
    """Give the energy −log p(x, a), up to constants, of unit noise and the group prior.

    Examples:
        >>> import torch
        >>> phi = torch.eye(2)[:, None, :]
        >>> energy(torch.tensor([[3.0, 4.0]]), phi, torch.tensor([[[3.0, 4.0]]]), lam=2.0).total.tolist()
        [10.0]
    """
    error = x - reconstruct(phi, codes)
    return Energy(0.5 * error.square().sum(dim=-1), lam * group_norms(codes).sum(dim=-1))
