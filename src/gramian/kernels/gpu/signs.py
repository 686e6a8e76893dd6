r"""The product P·G of float32 vectors with the signs of l1, as three products of bfloat16 numbers.

The 24 bits of a float32 number are the sum of three bfloat16 numbers, and a sign is one. So three products at the rate
of 16-bit products, summed in float32, multiply exactly; a GPU has many times that rate in 16 bits. G takes half of the
memory that it would in float32.

bfloat16 has the exponents of float32, so nothing overflows. The last of the three numbers underflows where an entry of
Φ is below 2⁻¹¹⁰ = 8·10⁻³⁴: an entry is then off by at most 2⁻¹³³, or by 2⁻¹²⁵ on a device that treats subnormal numbers
as 0.
"""

from functools import cache

import torch

from gramian.kernels import reference
from gramian.kernels.gpu import launching
from gramian.kernels.gpu.configurations import Configuration, configuration, shape_class
from gramian.kernels.gpu.epilogues import Epilogue
from gramian.typing import GroupMatrices, Phi

__all__ = ["sign_product", "subgradient_dtype"]

_SMALL = {"ROWS": 64, "COLUMNS": 64, "DEPTH": 32, "num_warps": 4, "num_stages": 3}
_LARGE = {"ROWS": 128, "COLUMNS": 128, "DEPTH": 32, "num_warps": 8, "num_stages": 3}
_UNALIGNED = {"ROWS": 128, "COLUMNS": 128, "DEPTH": 32, "num_warps": 8, "num_stages": 2}
_ALIGNED = (
    _UNALIGNED,
    {"ROWS": 64, "COLUMNS": 64, "DEPTH": 64, "num_warps": 4, "num_stages": 2},
    {"ROWS": 128, "COLUMNS": 64, "DEPTH": 32, "num_warps": 4, "num_stages": 3},
    {"ROWS": 64, "COLUMNS": 128, "DEPTH": 32, "num_warps": 4, "num_stages": 3},
)
"""Candidates where the rows of P and G are aligned; otherwise some spill registers, as there are more loads."""

_BAND = 8
"""Tiles below one another that are computed before the next column of tiles, because they share what they read."""


def subgradient_dtype(phi: Phi, epilogue: Epilogue) -> torch.dtype:
    """Return the dtype of G: the narrowest in which it is exact and can be multiplied with Φ."""
    if not epilogue.exact:
        return reference.compute_dtype(phi.dtype)
    return torch.bfloat16 if phi.dtype == torch.float32 and _multiplies_bfloat16(phi.device) else phi.dtype


def sign_product(phi: Phi, G: GroupMatrices, scale: float, out: Phi, *, add: bool = False) -> None:
    """Write scale·PG to `out`, or add it.

    Args:
        phi: Φ[l, m, n], in float32.
        G: A tensor [m, n, k], in bfloat16.
        scale: A number.
        out: A tensor [l, m, k], in float32, in other memory than Φ.
        add: Whether the product is added.
    """
    length, m, n = phi.shape
    width = G.shape[2]
    if m == 0:
        return
    across = f"k={1 << max(0, width - 1).bit_length()}{'' if _is_aligned(phi, width) else ' unaligned'}"
    key = f"sign_product {shape_class(phi)} {across}"
    options = configuration(key, phi.device, lambda: _candidates(phi, width))
    tiles = -(-length // options["ROWS"]) * -(-width // options["COLUMNS"])
    launching.launch(
        "sign_product", (tiles, m), phi, G, out, length, n, width, *phi.stride(), *G.stride(), *out.stride(), scale,
        BAND=_BAND, ADD=add, **options, **launching.precision(G.dtype),
    )  # fmt: skip


def _candidates(phi: Phi, width: int) -> list[Configuration]:
    """Return the tiles of a program, the default first: a small one where large ones would leave processors idle."""
    length, m, _ = phi.shape
    large = _LARGE if _is_aligned(phi, width) else _UNALIGNED
    tiles = m * -(-length // large["ROWS"]) * -(-width // large["COLUMNS"])
    fills = width > _SMALL["COLUMNS"] and tiles >= launching.processors(phi.device)
    others = _ALIGNED if large is _LARGE else ()
    return [large, _SMALL, *others] if fills else [_SMALL, large, *others]


def _is_aligned(phi: Phi, width: int) -> bool:
    """Tell whether the rows of P and G begin at multiples of 16 numbers, or vectors are side by side."""
    return phi.shape[2] % 16 == width % 16 == 0 and (phi.stride(2) != 1 or phi.stride(0) % 16 == 0)


def _multiplies_bfloat16(device: torch.device) -> bool:
    return device.type != "cuda" or _has_bfloat16_units(device)


@cache
def _has_bfloat16_units(device: torch.device) -> bool:
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
