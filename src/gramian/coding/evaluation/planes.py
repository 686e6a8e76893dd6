"""The principal plane of the codes of each group."""

from dataclasses import dataclass

import torch
from jaxtyping import Float

from gramian.coding.model import Codes
from gramian.typing import GroupScalars

__all__ = ["GroupPlanes", "group_planes"]


@dataclass(frozen=True)
class GroupPlanes:
    """A plane in the space of codes of each group.

    Attributes:
        axes: Two orthonormal directions e₁ and e₂ of each group, the one of larger power first.
        share: Fraction of the power of the codes of a group, Σ ‖a_i‖², that lies in its plane; NaN for a silent group.
    """

    axes: Float[torch.Tensor, "m n 2"]
    share: GroupScalars


@torch.no_grad()
def group_planes(codes: Codes) -> GroupPlanes:
    """Compute the first two principal directions of the codes of each group, without subtracting a mean.

    They are the eigenvectors of Σ a_i a_iᵀ with the largest eigenvalues. The entry of largest modulus of
    each is positive. For n = 2, the plane is the whole space of codes of the group.

    Args:
        codes: Codes [batch, m, n], n at least 2.

    Returns:
        The planes, in the data type of the codes.

    Cost:
        O(batch·m·n² + m·n³) flops.

    Examples:
        >>> import torch
        >>> codes = torch.tensor([[[0.0, 3.0, 0.0]], [[0.0, 0.0, 2.0]], [[1.0, 0.0, 0.0]]])
        >>> planes = group_planes(codes)
        >>> planes.axes[0].T.tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        >>> round(planes.share.item(), 4)
        0.9286
    """
    a = codes.double().transpose(0, 1)
    power, directions = torch.linalg.eigh(a.mT @ a)
    axes = directions[:, :, -2:].flip(-1)
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    axes = torch.where(largest < 0, -axes, axes)
    return GroupPlanes(axes.to(codes.dtype), (power[:, -2:].sum(dim=1) / power.sum(dim=1)).to(codes.dtype))
