"""Subspaces that the groups of a dictionary span: orthonormal bases, dimensions, and random subspaces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.errors import DataError, DtypeError
from gramian.layout import Layout, as_layout
from gramian.typing import FLOATING_DTYPES, Phi

__all__ = ["Subspaces", "as_groups", "overlaps", "random_subspaces", "subspaces"]

_NUMBERS = 1 << 24
"""Numbers in a block of products: 64 MiB in float32."""

_DEPENDENT = 1e-6
"""Singular values of random subspaces below this fraction of the largest are rounding errors."""


@dataclass(frozen=True)
class Subspaces:
    """Orthonormal bases of subspaces in float64.

    Attributes:
        bases: Bases [l, m, n], one for each subspace; columns beyond its dimension are 0.
        dimensions: Dimension of each subspace, at least 1.
        index: Index of each subspace's group in the dictionary.
    """

    bases: Phi
    dimensions: Int[Tensor, " m"]
    index: Int[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device) -> "Subspaces":
        """Copy to a device."""
        return Subspaces(self.bases.to(device), self.dimensions.to(device), self.index.to(device))


def as_groups(phi: Any, layout: Layout | str | None, *, name: str) -> Phi:
    """Convert an array or a tensor to a tensor Φ[l, m, n] of finite numbers.

    Raises:
        DtypeError: If it does not hold real floating-point numbers.
        LayoutError: If it does not fit its layout.
        DataError: If a number is not finite.
    """
    try:
        tensor = phi.detach() if isinstance(phi, Tensor) else torch.tensor(np.asarray(phi))
    except (TypeError, ValueError) as error:
        raise DtypeError(f"{name} must be an array or a tensor of real numbers; got {type(phi).__name__}") from error
    if tensor.dtype not in FLOATING_DTYPES or tensor.layout != torch.strided:
        raise DtypeError(
            f"{name} must be dense and of dtype float64, float32, bfloat16 or float16; got {tensor.dtype}, "
            f"{tensor.layout}; try {name}.float() or {name}.to_dense()"
        )
    resolved = as_layout(layout, tensor.ndim)
    # Without a layout, two axes are one group [l, n].
    groups = resolved.to_phi(tensor) if resolved else tensor
    if not bool(groups.isfinite().all()):
        raise DataError(f"{name} must be finite; got NaN or infinite entries; try to remove these groups")
    return groups


def subspaces(phi: Phi, tol: float) -> Subspaces:
    """Compute orthonormal bases of the spans of groups.

    Directions whose singular value is at most `tol` times the largest of the whole dictionary do not count, and groups
    without any other direction are left out.

    Args:
        phi: Φ[l, m, n], finite.
        tol: The smallest singular value that counts, relative to the largest.

    Cost:
        4·l·m·n² flops in float64, and the bases.
    """
    length, m, n = phi.shape
    # The Gram matrix squares the condition number: float64 resolves singular values down to 1e-8 of the largest.
    scale = float(phi.abs().max()) if phi.numel() else 0.0
    values = phi.new_zeros((m, n), dtype=torch.float64)
    bases = phi.new_zeros((m, length, n), dtype=torch.float64)
    if scale > 0:
        for rows in _parts(m, length * n):
            P = phi[:, rows].permute(1, 0, 2).double() / scale
            squares, vectors = torch.linalg.eigh(P.mT @ P)
            values[rows] = squares.flip(1).clamp_min(0)
            bases[rows] = P @ vectors.flip(2)
    live = values > tol**2 * float(values.max()) if scale > 0 else values > 0
    live[:, length:] = False
    bases *= torch.where(live, values, torch.inf).rsqrt()[:, None]
    dimensions = live.sum(dim=1)
    index = dimensions.nonzero()[:, 0]
    return Subspaces(bases[index].permute(1, 0, 2), dimensions[index], index)


def random_subspaces(
    length: int,
    dimensions: Sequence[int],
    generator: torch.Generator,
    factor: Float[Tensor, "l l"] | None = None,
) -> Subspaces:
    """Draw independent subspaces of given dimensions, uniformly distributed.

    The span of independent normal vectors is uniform: its law is invariant under rotations.

    Args:
        length: Length l of the vectors.
        dimensions: Dimension of each subspace.
        generator: Generator of the random numbers.
        factor: A matrix F: subspaces are spans of vectors of covariance FFᵀ; None for uniform ones.
    """
    widths = torch.tensor(dimensions, device="cpu")
    most = int(widths.max())
    draws = torch.randn(length, len(widths), most, generator=generator, dtype=torch.float64, device="cpu")
    draws *= torch.arange(most, device="cpu") < widths[:, None]
    if factor is not None:
        draws = (factor @ draws.flatten(1)).view_as(draws)
    return subspaces(draws, _DEPENDENT)


def overlaps(a: Subspaces, b: Subspaces) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Compute the mean squared cosine of the principal angles of every pair of subspaces.

    ‖UᵀV‖_F² is the sum of the squared cosines; a pair of subspaces has as many principal angles as the smaller one has
    dimensions. Products are in float32, a block at a time.

    Returns:
        Overlaps [m of a, m of b], in float64, which the assignment requires.

    Cost:
        2·l·(m·n)·(m'·n') flops, and 8·m·m' bytes besides a block of 64 MiB.
    """
    length, m_b, n_b = b.bases.shape
    n_a = a.bases.shape[2]
    V = b.bases.reshape(length, -1).float()
    result = np.empty((len(a), m_b))
    for rows in _parts(len(a), n_a * m_b * n_b):
        U = a.bases[:, rows].reshape(length, -1).float()
        squares = (U.mT @ V).square_().view(-1, n_a, m_b, n_b).sum(dim=(1, 3))
        squares /= torch.minimum(a.dimensions[rows, None], b.dimensions)
        result[rows] = squares.cpu().numpy()
    return result


def _parts(count: int, size: int) -> Iterator[slice]:
    """Divide `count` items of `size` numbers into blocks of bounded size."""
    step = max(1, _NUMBERS // max(1, size))
    return (slice(first, min(first + step, count)) for first in range(0, count, step))
