"""Numbers for every pair of vectors: [n, n] for all groups, or [m, n, n] for each."""

from typing import Any

import torch
from torch import Tensor

from gramian.errors import OptionError, ShapeError
from gramian.typing import Entries

__all__ = ["check_pairs", "check_sizes", "for_groups", "of_groups"]

_MATRIX, _MATRICES = 2, 3


def check_pairs(given: Any, name: str) -> Tensor:
    """Give a tensor of numbers for pairs, detached.

    Raises:
        OptionError: If they are not symmetric and finite, [n, n] or [m, n, n].
    """
    pairs = torch.as_tensor(given).detach()
    if not pairs.is_floating_point():
        pairs = pairs.float()
    if pairs.ndim not in (_MATRIX, _MATRICES) or pairs.shape[-1] != pairs.shape[-2]:
        raise OptionError(f"{name} must be of shape [n, n] or [m, n, n]; got {list(pairs.shape)}")
    if not bool(torch.isfinite(pairs).all()):
        raise OptionError(f"{name} must be finite; got NaN or infinite entries")
    if not torch.equal(pairs, pairs.mT):
        raise OptionError(
            f"{name} must be symmetric, for a pair has one inner product; got entries that differ by up to "
            f"{(pairs - pairs.mT).abs().max().item():.3g}; try ({name} + {name}.mT) / 2"
        )
    return pairs


def for_groups(pairs: Tensor) -> int | None:
    """Give m of [m, n, n], None of [n, n]."""
    return len(pairs) if pairs.ndim == _MATRICES else None


def check_sizes(pairs: Tensor, m: int, n: int, name: str) -> None:
    """Refuse m groups of n vectors if the numbers are for others.

    Raises:
        ShapeError: If so.
    """
    if n != pairs.shape[-1] or (pairs.ndim == _MATRICES and m != len(pairs)):
        raise ShapeError(
            f"{name} of shape {list(pairs.shape)} must be for the groups of the parameter; got {m} of {n} vectors; try "
            f"{name} of shape [{n}, {n}], or [{m}, {n}, {n}] for each group its own"
        )


def of_groups(pairs: Tensor, X: Entries, name: str) -> Tensor:
    """Give the numbers for X, in its dtype and on its device.

    Raises:
        ShapeError: If they are for other sizes.
    """
    m = X.shape[-3] if X.ndim >= _MATRICES else 1
    check_sizes(pairs, m, X.shape[-1], name)
    return pairs.to(X)
