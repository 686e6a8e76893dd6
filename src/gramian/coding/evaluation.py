"""How good a dictionary is: signal-to-noise ratio at a fixed number of coefficients, and the state of its groups."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.prior import Codes, dictionary_matrix, group_norms
from gramian.errors import OptionError
from gramian.kernels import dense
from gramian.typing import GroupScalars, Phi

__all__ = ["GroupState", "debias", "group_state", "smallest_beta", "snr", "strongest_groups", "within_group_cosines"]

_AT_ONCE = 256
"""Samples whose systems of equations are solved at a time."""


@dataclass(frozen=True)
class GroupState:
    """What has become of the groups of a dictionary.

    Attributes:
        median_cosine: Median over groups of the largest |cos| between two of a group's atoms.
        largest_cosine: The largest such |cos| of all groups.
        collapsed: Fraction of groups with two atoms of |cos| > 0.5.
        effective_rank: Mean over groups of exp(entropy of the normalised singular values); n when orthonormal.
    """

    median_cosine: float
    largest_cosine: float
    collapsed: float
    effective_rank: float


def snr(x: Float[Tensor, "batch l"], reconstruction: Float[Tensor, "batch l"]) -> float:
    """Give the signal-to-noise ratio of all samples together, in dB.

    Examples:
        >>> import torch
        >>> round(snr(torch.ones(2, 5), 0.9 * torch.ones(2, 5)), 3)
        20.0
    """
    signal, noise = x.double().square().sum(), (x - reconstruction).double().square().sum()
    return float(10 * torch.log10(signal / noise))


def strongest_groups(codes: Codes, active: int) -> Codes:
    """Keep, for each sample, the groups of largest amplitude that hold `active` coefficients, and zero the rest.

    Raises:
        OptionError: If `active` is not a multiple of n between n and m·n.
    """
    _, m, n = codes.shape
    if active % n or not n <= active <= m * n:
        raise OptionError(f"active must be a multiple of the group size n = {n}, at most {m * n}; got {active}")
    chosen = group_norms(codes).topk(active // n, dim=-1).indices
    keep = torch.zeros(codes.shape[:2], dtype=torch.bool, device=codes.device).scatter_(1, chosen, value=True)
    return codes * keep[..., None]


def debias(x: Float[Tensor, "batch l"], phi: Phi, codes: Codes, active: int) -> Codes:
    """Fit, for each sample, the coefficients of its strongest groups by least squares: what shrinkage took is undone.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n].
        codes: Codes, whose group amplitudes choose the support.
        active: How many coefficients the support holds; a multiple of n.

    Returns:
        Codes of the same shape, zero off the support.

    Raises:
        OptionError: If `active` is no multiple of n between n and m·n.

    Cost:
        O(batch·(l·active² + active³)) flops; the atoms of 256 supports at a time.
    """
    strongest_groups(codes, active)
    m, n = codes.shape[1:]
    D = dictionary_matrix(phi).double()
    size = D.square().sum(dim=0).mean().clamp_min(torch.finfo(D.dtype).tiny)
    groups = group_norms(codes).topk(active // n, dim=-1).indices
    support = (groups[..., None] * n + torch.arange(n, device=codes.device)).flatten(1)
    flat = torch.zeros(codes.shape[0], m * n, dtype=codes.dtype, device=codes.device)
    for part, chosen, row in zip(x.split(_AT_ONCE), support.split(_AT_ONCE), flat.split(_AT_ONCE), strict=True):
        atoms = D.mT[chosen]
        # Collapsed groups make the system singular: the ridge gives their least-norm fit. Cholesky, because a batched
        # LU solve of this size can hang in MKL with two threads.
        gram = atoms @ atoms.mT
        gram.diagonal(dim1=1, dim2=2).add_(1e-6 * size)
        target = atoms @ part.double()[..., None]
        fitted = torch.cholesky_solve(target, torch.linalg.cholesky(gram))[..., 0]
        row.scatter_(1, chosen, fitted.to(codes.dtype))
    return flat.unflatten(1, (m, n))


def within_group_cosines(phi: Phi) -> Float[Tensor, "m pairs"]:
    """Give |cos| of the angle between every two atoms of each group; empty for n = 1."""
    directions = phi / torch.linalg.vector_norm(phi, dim=0, keepdim=True).clamp_min(torch.finfo(phi.dtype).tiny)
    n = phi.shape[2]
    rows, columns = torch.triu_indices(n, n, offset=1, device=phi.device)
    return dense.residual(directions)[:, rows, columns].abs()


def group_state(phi: Phi) -> GroupState:
    """Describe the groups of a dictionary.

    Examples:
        >>> import torch, gramian
        >>> state = group_state(gramian.orthogonalize(torch.randn(32, 8, 4)).phi)
        >>> round(state.effective_rank, 6), state.collapsed
        (4.0, 0.0)
    """
    cosines = within_group_cosines(phi)
    largest: GroupScalars = cosines.amax(dim=1) if cosines.numel() else cosines.new_zeros(phi.shape[1])
    sigma = torch.linalg.svdvals(dense.group_matrices(phi).double())
    share = sigma / sigma.sum(dim=-1, keepdim=True).clamp_min(1e-300)
    rank = torch.special.entr(share).sum(dim=-1).exp()
    return GroupState(
        median_cosine=float(largest.median()),
        largest_cosine=float(largest.max()),
        collapsed=float((largest > 0.5).double().mean()),
        effective_rank=float(rank.mean()),
    )


def smallest_beta(codes: Codes, lam: float) -> float:
    r"""Give the β from which on the groups that made these codes stay orthonormal while they learn.

    Where learning with exactly orthonormal groups ends, the data pull on Φ_i with λΦ_i E[a_i a_iᵀ/‖a_i‖], and the l1
    penalty holds against as much as 2β on every pair: β = ½λ max_ij E[a_ij²/‖a_i‖].

    Args:
        codes: Codes of many samples, inferred with the group Laplace prior, [count, m, n].
        lam: Sparsity λ.

    Returns:
        The bound. Below it atoms grow longer than 1, the one that is used most first.

    Examples:
        >>> import torch
        >>> smallest_beta(torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]]), lam=2.0)  # half the samples use it: ½·16/5
        1.600000023841858
    """
    lengths = group_norms(codes).clamp_min(torch.finfo(codes.dtype).tiny)
    return 0.5 * lam * float((codes.square() / lengths[..., None]).mean(dim=0).max())
