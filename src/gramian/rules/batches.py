"""Small tensors side by side: those of the same Φ-shape and dtype become one Φ, along the group axis.

A network has hundreds of small weights, and a call for each costs more than its arithmetic. Side by side they change no
number but by rounding, where groups do not meet. Large tensors go one by one: to copy them would cost more than a call.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gramian import kernels
from gramian.penalties import Penalty
from gramian.typing import Phi

__all__ = ["batches", "side_by_side"]

_TOGETHER = 1 << 17
"""Numbers of a tensor up to which a copy costs less than a call."""

_BATCH = 1 << 19
"""Numbers that are laid side by side."""


def batches(phis: Sequence[Tensor], penalty: Penalty) -> Iterator[list[int]]:
    """Give the indices of the tensors that are laid side by side."""
    alike: dict[object, list[int]] = {}
    for i, phi in enumerate(phis):
        # Without a group there is nothing to lay side by side, and nothing to cut apart again.
        alone = phi.numel() > _TOGETHER or phi.shape[1] == 0
        if alone or penalty.groups is not None or not kernels.is_plain(phi):
            yield [i]
        else:
            alike.setdefault((phi.shape, phi.dtype, phi.device), []).append(i)
    for batch in alike.values():
        most = max(1, _BATCH // max(1, phis[batch[0]].numel()))
        for first in range(0, len(batch), most):
            yield batch[first : first + most]


def side_by_side(phis: Sequence[Tensor]) -> Phi:
    """Copy along the group axis, each group in the order in which it lies: to transpose costs more than to copy."""
    strides = phis[0].stride()
    if strides[0] < strides[2]:
        return torch.cat([phi.permute(1, 2, 0) for phi in phis]).permute(2, 0, 1)
    return torch.cat([phi.permute(1, 0, 2) for phi in phis]).permute(1, 0, 2)
