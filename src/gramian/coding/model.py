"""The model of a sample: x = Σ_i Φ_i a_i + ε, its codes, and its reconstruction."""

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.typing import Phi

__all__ = ["Amplitudes", "Codes", "dictionary_matrix", "group_norms", "reconstruct"]

Codes = Float[Tensor, "batch m n *places"]
"""Coefficients: n numbers for each of m groups of each sample; a convolutional code has them at every position."""

Amplitudes = Float[Tensor, "batch m *places"]


def group_norms(codes: Codes) -> Amplitudes:
    """Compute the amplitudes ‖a_i‖₂ of the groups.

    Args:
        codes: Codes [batch, m, n].

    Returns:
        Amplitudes [batch, m].

    Examples:
        >>> import torch
        >>> group_norms(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])).tolist()
        [[5.0, 0.0]]
    """
    return torch.linalg.vector_norm(codes, dim=2)


def dictionary_matrix(phi: Phi) -> Float[Tensor, "l atoms"]:
    """Reshape Φ[l, m, n] to one matrix of all atoms, ordered by group; a view if the strides allow it."""
    return phi.reshape(phi.shape[0], -1)


def reconstruct(phi: Phi, codes: Codes) -> Float[Tensor, "batch l"]:
    """Compute Σ_i Φ_i a_i for every sample.

    Args:
        phi: Dictionary Φ[l, m, n].
        codes: Codes [batch, m, n].

    Returns:
        Samples [batch, l].

    Examples:
        >>> import torch
        >>> reconstruct(torch.eye(2)[:, None, :], torch.tensor([[[3.0, 4.0]]])).tolist()
        [[3.0, 4.0]]
    """
    return codes.flatten(1) @ dictionary_matrix(phi).mT
