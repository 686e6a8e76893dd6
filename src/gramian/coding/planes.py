"""The plane within each group that its codes use most."""

from dataclasses import dataclass

import torch
from jaxtyping import Float

from gramian.coding.prior import Codes
from gramian.typing import GroupScalars

__all__ = ["GroupPlanes", "group_planes"]


@dataclass(frozen=True)
class GroupPlanes:
    """A plane in every group's space of codes.

    Attributes:
        axes: Two orthonormal directions e₁ and e₂ of each group, the more used one first.
        share: Share of the power of a group's codes, Σ ‖a_i‖², that lies in its plane; nan for a silent group.
    """

    axes: Float[torch.Tensor, "m n 2"]
    share: GroupScalars


@torch.no_grad()
def group_planes(codes: Codes) -> GroupPlanes:
    """Find, for each group of two atoms or more, the first two principal directions of its codes about zero.

    They are the eigenvectors of Σ a_i a_iᵀ with the largest eigenvalues. Each has the sign that makes its largest entry
    positive. For n = 2 the plane is the whole group.

    Args:
        codes: Codes [batch, m, n], n at least 2.

    Returns:
        The planes, of the type of the codes.

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
