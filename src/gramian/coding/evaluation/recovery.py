"""Recovery of known factors: the contributions of groups compared with those of true factors."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gramian.coding.model import Codes, group_norms
from gramian.errors import ShapeError
from gramian.typing import Phi

__all__ = ["Recovery", "block_recovery"]


@dataclass(frozen=True)
class Recovery:
    """How well the groups of a dictionary recover known factors.

    Attributes:
        r2: For each factor 1 − Σ‖y − ŷ‖²/Σ‖y − ȳ‖², with y the contribution of the factor and ŷ that of its group,
            over the samples that contain the factor.
        group: The group that is assigned to each factor.
        f1: F1 score of the group's activity as a prediction of the factor's presence.
    """

    r2: Float[Tensor, " factors"]
    group: Int[Tensor, " factors"]
    f1: Float[Tensor, " factors"]


def block_recovery(
    phi: Phi,
    codes: Codes,
    true_phi: Float[Tensor, "l factors d"],
    true_codes: Float[Tensor, "batch factors d"],
    active: Bool[Tensor, "batch factors"] | None = None,
) -> Recovery:
    r"""Compare each known factor with the group whose activity predicts it best, by the block R².

    Reconstruction does not show whether factors are recovered: a group that holds two factors at once reconstructs
    both. This measure compares contributions Φ_g a_g with true contributions one by one.

    Args:
        phi: Dictionary Φ[l, m, n].
        codes: Codes of the samples, [batch, m, n].
        true_phi: Bases of the true factors.
        true_codes: Coordinates of the true factors in these bases.
        active: Which factors are in a sample; by default those whose coordinates are not all 0.

    Returns:
        R², the assigned group and its F1 score for each factor. A factor that is in no sample has R² of NaN.

    Raises:
        ShapeError: If samples or lengths of atoms differ.

    Cost:
        O(batch·(m + l)·factors) flops.

    Examples:
        >>> import torch
        >>> phi = torch.eye(4).reshape(4, 2, 2)
        >>> codes = torch.randn(100, 2, 2) * (torch.rand(100, 2, 1) < 0.5)
        >>> block_recovery(phi, codes, phi.flip(1), codes.flip(1)).group.tolist()
        [1, 0]

    References:
        "Block-Sparse Featurizers", arXiv 2606.25234, appendix H.
    """
    if len(codes) != len(true_codes) or len(phi) != len(true_phi):
        raise ShapeError(
            "codes and true codes must be of the same samples, and atoms of the same length; got "
            f"{len(codes)} and {len(true_codes)} samples, atoms of {len(phi)} and {len(true_phi)}"
        )
    fires = group_norms(codes) > 0
    active = (true_codes != 0).any(dim=2) if active is None else active
    both = active.mT.float() @ fires.float()
    f1 = 2 * both / (active.sum(dim=0)[:, None] + fires.sum(dim=0)).clamp_min(1)
    best = f1.max(dim=1)
    r2 = torch.full((active.shape[1],), torch.nan, dtype=torch.float64, device=codes.device)
    for factor, group in enumerate(best.indices.tolist()):
        rows = active[:, factor]
        truth = true_codes[rows, factor].double() @ true_phi[:, factor].mT.double()
        contribution = codes[rows, group].double() @ phi[:, group].mT.double()
        spread = (truth - truth.mean(dim=0)).square().sum()
        if spread > 0:
            r2[factor] = 1 - (truth - contribution).square().sum() / spread
    return Recovery(r2, best.indices, best.values)
