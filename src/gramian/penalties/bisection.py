"""The shrink of a penalty that acts on each entry by itself, from its dual alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from gramian.typing import Entries

__all__ = ["shrink_by_bisection"]


def shrink_by_bisection(dual: Callable[[Entries], Entries], X: Entries, tau: Tensor) -> Entries:
    r"""Give X − Y, where Y + τ h'(Y) ∋ X entry by entry, for convex h that are least at 0.

    Y lies between 0 and X, and Y + τ h'(Y) rises with Y: so each entry is halved in, to the spacing of its dtype. At a
    kink that Y falls on, h' jumps over X, and the halving ends on the kink.

    Args:
        dual: h', entry by entry.
        X: Any shape.
        tau: τ ≥ 0, which may be infinite; broadcasts against X.

    Cost:
        `dual`, once for each binary digit of the dtype.
    """
    low, high = torch.zeros_like(X), torch.ones_like(X)  # of the share of X that stays
    eps = torch.finfo(X.dtype).eps
    size = X.abs()
    for _ in range(2 - round(torch.tensor(eps, dtype=torch.float64, device="cpu").log2().item())):
        middle = (low + high) / 2
        slope = dual(X * middle).abs()
        # Where there is no slope, an infinite τ pulls no more than any other.
        over = size * middle + torch.where(slope > 0, tau * slope, 0) > size
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    # What stays whole, stays whole to the last digit; what goes, goes.
    stays = torch.where(low > 1 - 2 * eps, 1, torch.where(high < 2 * eps, 0, (low + high) / 2))
    return X - X * stays
