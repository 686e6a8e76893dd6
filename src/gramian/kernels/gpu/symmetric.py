"""The symmetric Gram product on a GPU, with the penalty inside: one launch for the upper tiles of all groups.

A tile of X is summed in registers, and G, or for a step X, is written with its mirror image. Programs on the diagonal
read all of Φ; on request they write a copy, from which a later product can be written to Φ itself.
"""

import torch
from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.gpu import launching
from gramian.kernels.gpu.configurations import Configuration, configuration, shape_class
from gramian.kernels.gpu.epilogues import Epilogue
from gramian.kernels.gpu.signs import subgradient_dtype
from gramian.typing import Phi

__all__ = ["symmetric_product"]

_ALIGNED = {
    2: ((128, 64, 8, 3), (64, 64, 4, 3), (64, 64, 4, 4), (128, 32, 8, 4), (128, 64, 8, 4), (128, 128, 8, 2)),
    4: ((64, 32, 4, 2), (64, 32, 8, 2), (128, 32, 8, 2)),
    8: ((64, 16, 4, 1),),
}
"""Edge of a tile, rows at a time, warps and stages, for each size of an entry in bytes; the default first."""

_UNALIGNED = {2: ((64, 64, 4, 3), (64, 64, 4, 4)), 4: ((64, 32, 4, 2),), 8: ((64, 16, 4, 1),)}
"""The same where rows are not aligned; larger tiles spill registers."""

_OTHER = {2: ((64, 16, 4, 2),), 4: ((64, 16, 4, 2),), 8: ((64, 16, 4, 1),)}
"""The same for orders other than rows side by side, and copies that are not aligned: they take more pointers."""


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
    G = phi.new_empty(m, last - first, n - first, dtype=wide if step else subgradient_dtype(phi, epilogue))
    simple = phi.stride(2) == 1 and (copy is None or n % 16 == 0)
    kind = f"{'step' if step else 'gradient'}{'' if copy is None else ', copy'}"
    key = f"symmetric_tiles {shape_class(phi)} {epilogue.kind}, {kind}"
    options = configuration(key, phi.device, lambda: _candidates(phi, simple=simple))
    tile = options["TILE"]
    grid = (-(-(last - first) // tile), -(-(n - first) // tile), m)
    sums = torch.empty(m, *grid[:2], 2, dtype=wide, device=phi.device)
    launching.launch(
        "symmetric_tiles", grid, phi, G if copy is None else copy, G, sums, length, n, first, last, *phi.stride(),
        epilogue.parameter, PENALTY=epilogue.kind, STEP=step, COPY=copy is not None, **options,
        **({} if simple else launching.registers(255)), **launching.precision(phi.dtype),
    )  # fmt: skip
    return G, sums


def _candidates(phi: Phi, *, simple: bool) -> list[Configuration]:
    choices = (_ALIGNED if phi.shape[2] % 16 == 0 else _UNALIGNED) if simple else _OTHER
    names = "TILE", "ROWS", "num_warps", "num_stages"
    return [dict(zip(names, numbers, strict=True)) for numbers in choices[phi.element_size()]]
