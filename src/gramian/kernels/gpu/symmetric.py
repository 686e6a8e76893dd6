"""The symmetric Gram product on a GPU, with the penalty inside: one launch for the upper tiles of all groups.

A tile of X is summed in registers, and G, or for a step X, is written with its mirror image. Programs on the diagonal
read all of Φ; on request they write a copy, from which a later product can be written to Φ itself.
"""

import torch
from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.gpu import launching
from gramian.kernels.gpu.epilogues import Epilogue
from gramian.typing import Phi

__all__ = ["symmetric_product"]

_CONFIGURATIONS = {2: (128, 64, 8, 3), 4: (64, 32, 4, 2), 8: (64, 16, 4, 1)}
"""Edge of a tile, rows at a time, warps and stages, for each size of an entry in bytes."""


def symmetric_product(
    phi: Phi,
    epilogue: Epilogue,
    first: int,
    last: int,
    *,
    step: bool = False,
    copy: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute G[I, i:] of every group for the block I from i = `first` to `last`.

    Args:
        phi: Φ[l, m, n].
        epilogue: The penalty.
        first: First index of the block.
        last: Index after its last.
        step: Whether X is computed instead of G, in the compute dtype.
        copy: Where Φ is copied to, [m, l, n].

    Returns:
        G, a tensor [m, last − first, n − first]; and the shares of the tiles in μ(X), and for a step in ‖X‖²_F, a
        tensor [m, down, across, 2] in which tiles below the diagonal are not written.
    """
    length, m, n = phi.shape
    wide = reference.compute_dtype(phi.dtype)
    exact = epilogue.exact and not step
    G = phi.new_empty(m, last - first, n - first, dtype=phi.dtype if exact else wide)
    # Other orders than rows side by side, and a copy that is not aligned, take more pointers, which must not spill.
    simple = phi.stride(2) == 1 and (copy is None or n % 16 == 0)
    size = phi.element_size() if simple else max(4, phi.element_size())
    tile, rows, warps, stages = _CONFIGURATIONS[size]
    grid = (-(-(last - first) // tile), -(-(n - first) // tile), m)
    sums = torch.empty(m, *grid[:2], 2, dtype=wide, device=phi.device)
    launching.launch(
        "symmetric_tiles", grid, phi, G if copy is None else copy, G, sums, length, n, first, last, *phi.stride(),
        epilogue.parameter, TILE=tile, ROWS=rows, PENALTY=epilogue.kind, STEP=step, COPY=copy is not None,
        num_warps=warps, num_stages=stages, **launching.precision(phi.dtype),
    )  # fmt: skip
    return G, sums
