"""Measures of a dictionary: signal-to-noise ratio at a fixed number of coefficients, and the state of its groups."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.model import Codes, group_norms
from gramian.errors import OptionError
from gramian.kernels import reference
from gramian.typing import GroupScalars, Phi

__all__ = ["GroupState", "group_state", "smallest_beta", "snr", "strongest_groups", "within_group_cosines"]


@dataclass(frozen=True)
class GroupState:
    """The state of the groups of a dictionary.

    Attributes:
        median_cosine: Median over groups of the largest |cos| between two atoms of a group.
        largest_cosine: The largest |cos| between two atoms of a group, over all groups.
        collapsed: Fraction of groups with two atoms of |cos| > 0.5.
        effective_rank: Mean over groups of exp(entropy of the normalised singular values); n for orthonormal groups.
    """

    median_cosine: float
    largest_cosine: float
    collapsed: float
    effective_rank: float


def snr(x: Float[Tensor, "batch l"], reconstruction: Float[Tensor, "batch l"]) -> float:
    """Compute the signal-to-noise ratio over all samples, in dB.

    Args:
        x: Samples [batch, l].
        reconstruction: Their reconstruction, of the same shape.

    Returns:
        10 log₁₀(Σ‖x‖² / Σ‖x − reconstruction‖²).

    Examples:
        >>> import torch
        >>> round(snr(torch.ones(2, 5), 0.9 * torch.ones(2, 5)), 3)
        20.0
    """
    signal, noise = x.double().square().sum(), (x - reconstruction).double().square().sum()
    return float(10 * torch.log10(signal / noise))


def strongest_groups(codes: Codes, active: int) -> Codes:
    """Keep the groups of largest amplitude of each sample, with `active` coefficients, and set all others to 0.

    Args:
        codes: Codes [batch, m, n].
        active: Number of coefficients to keep for each sample.

    Returns:
        New codes of the same shape.

    Raises:
        OptionError: If `active` is not a multiple of n between n and m·n.

    Examples:
        >>> import torch
        >>> strongest_groups(torch.tensor([[[3.0, 4.0], [1.0, 0.0]]]), active=2).tolist()
        [[[3.0, 4.0], [0.0, 0.0]]]
    """
    _, m, n = codes.shape
    if active % n or not n <= active <= m * n:
        raise OptionError(f"active must be a multiple of the group size n = {n}, at most {m * n}; got {active}")
    indices = group_norms(codes).topk(active // n, dim=-1).indices
    mask = torch.zeros(codes.shape[:2], dtype=torch.bool, device=codes.device).scatter_(1, indices, value=True)
    return codes * mask[..., None]


def within_group_cosines(phi: Phi) -> Float[Tensor, "m pairs"]:
    """Compute |cos| of the angle between every two atoms of each group; empty for n = 1.

    Args:
        phi: Dictionary Φ[l, m, n].

    Returns:
        |cos| of the n(n − 1)/2 pairs of each group, [m, pairs].

    Examples:
        >>> import torch
        >>> within_group_cosines(torch.eye(3)[:, None, :]).tolist()
        [[0.0, 0.0, 0.0]]
    """
    directions = phi / torch.linalg.vector_norm(phi, dim=0, keepdim=True).clamp_min(torch.finfo(phi.dtype).tiny)
    n = phi.shape[2]
    rows, columns = torch.triu_indices(n, n, offset=1, device=phi.device)
    return reference.residual(directions)[:, rows, columns].abs()


def group_state(phi: Phi) -> GroupState:
    """Compute the state of the groups of a dictionary.

    Args:
        phi: Dictionary Φ[l, m, n].

    Returns:
        The state, with singular values in float64.

    Cost:
        O(m·l·n²) flops.

    Examples:
        >>> import torch, gramian
        >>> state = group_state(gramian.orthogonalize(torch.randn(32, 8, 4)).phi)
        >>> round(state.effective_rank, 6), state.collapsed
        (4.0, 0.0)
    """
    cosines = within_group_cosines(phi)
    largest: GroupScalars = cosines.amax(dim=1) if cosines.numel() else cosines.new_zeros(phi.shape[1])
    sigma = torch.linalg.svdvals(reference.group_matrices(phi).double())
    weights = sigma / sigma.sum(dim=-1, keepdim=True).clamp_min(1e-300)
    rank = torch.special.entr(weights).sum(dim=-1).exp()
    return GroupState(
        median_cosine=float(largest.median()),
        largest_cosine=float(largest.max()),
        collapsed=float((largest > 0.5).double().mean()),
        effective_rank=float(rank.mean()),
    )


def smallest_beta(codes: Codes, lam: float) -> float:
    r"""Compute the smallest β that keeps the groups of these codes orthonormal during learning.

    If learning with exactly orthonormal groups has converged, the gradient of the data term with respect to Φ_i is
    −λΦ_i E[a_i a_iᵀ/‖a_i‖]. The l1 penalty can balance at most 2β for every pair of atoms, which gives
    β = ½λ max_ij E[a_ij²/‖a_i‖].

    Args:
        codes: Codes of many samples, inferred with the group Laplace prior, [count, m, n].
        lam: Sparsity λ.

    Returns:
        The bound. For a smaller β, atoms grow longer than 1, first those with the largest mean a_ij²/‖a_i‖.

    Examples:
        >>> import torch
        >>> smallest_beta(torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]]), lam=2.0)  # active in half of the samples: ½·16/5
        1.600000023841858
    """
    lengths = group_norms(codes).clamp_min(torch.finfo(codes.dtype).tiny)
    return 0.5 * lam * float((codes.square() / lengths[..., None]).mean(dim=0).max())
