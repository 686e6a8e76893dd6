"""Draw atoms, Gram residuals and codes as arrays of pixels, and encode them as PNG."""

import io
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from gramian.errors import needs_extra
from gramian.kernels import reference
from gramian.typing import Phi

__all__ = [
    "AtomGrid",
    "Mosaic",
    "amplitude_picture",
    "atoms_picture",
    "direction_picture",
    "gray_picture",
    "png",
    "residual_picture",
    "residual_sizes",
    "row_picture",
    "signed_picture",
]

Pixels = UInt8[ndarray, "height width *channels"]

RESIDUAL_RANGE = (1e-8, 1.0)
"""Default values of |X_jk| for the darkest and the brightest colour."""

_NUMBERS = 1 << 22
"""Entries of Gram matrices that are in memory at a time."""


def png(pixels: Pixels) -> bytes:
    """Encode pixels as PNG."""
    with needs_extra("gramian.report", "coding"):
        from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def gray_picture(picture: Float[Tensor, "height width *channels"]) -> Pixels:
    """Convert grey values or colours in [0, 1] to bytes."""
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def signed_picture(picture: Float[Tensor, "height width *channels"], *, limit: float | None = None) -> Pixels:
    """Draw signed values: 0 is middle grey; ±limit, by default the largest absolute value, are white and black."""
    reach = float(picture.abs().max()) if limit is None else limit
    return gray_picture(0.5 + 0.5 * picture / (reach or 1.0))


@dataclass(frozen=True)
class AtomGrid:
    """Lay out groups in a picture, each group as a row of atoms.

    Attributes:
        groups: Number of groups.
        columns: Number of groups side by side.
        size: Atoms in a group.
        side: Side of an atom, pixels.
        gap: Pixels between atoms; three times as many between groups.
        margin: Pixels to the left of each group.
    """

    groups: int
    columns: int
    size: int
    side: int
    gap: int = 1
    margin: int = 0

    @classmethod
    def near_square(cls, groups: int, size: int, *, side: int, gap: int = 1, margin: int = 0) -> "AtomGrid":
        """Choose the number of columns so that the picture is about as wide as high."""
        ratio = (side + 3 * gap) / (size * (side + gap) + 3 * gap + margin)
        return cls(groups, max(1, round(math.sqrt(1.5 * groups * ratio))), size, side, gap, margin)

    @property
    def width(self) -> int:
        """Width of the picture, pixels."""
        return self.columns * self._across - 4 * self.gap

    @property
    def height(self) -> int:
        """Height of the picture, pixels."""
        return math.ceil(self.groups / self.columns) * self._down - 3 * self.gap

    def corner(self, place: int) -> tuple[int, int]:
        """Return row and column of the upper left pixel of a group's first atom."""
        return place // self.columns * self._down, place % self.columns * self._across + self.margin

    @property
    def _across(self) -> int:
        return self.margin + self.size * (self.side + self.gap) + 3 * self.gap

    @property
    def _down(self) -> int:
        return self.side + 3 * self.gap


def atoms_picture(
    phi: Phi,
    order: Tensor | None = None,
    *,
    columns: int | None = None,
    gap: int = 1,
    channels: int = 1,
    margin: int = 0,
) -> Pixels:
    """Draw groups as rows of atoms, each atom scaled by its largest absolute value.

    Args:
        phi: Dictionary Φ[l, m, n], l a square times the channels.
        order: Indices of the groups to draw, in order; by default all.
        columns: Number of groups side by side; by default the picture is about as wide as high.
        gap: Pixels between atoms; three times as many between groups.
        channels: Channels of a pixel: 1, or 3 for colours.
        margin: Pixels to the left of each group.

    Returns:
        RGBA pixels, transparent between the atoms.
    """
    sorted_phi = phi if order is None else phi[:, order]
    length, m, n = sorted_phi.shape
    side = math.isqrt(length // channels)
    grid = AtomGrid.near_square(m, n, side=side, gap=gap, margin=margin)
    grid = replace(grid, columns=columns or grid.columns)
    canvas = np.zeros((grid.height, grid.width, 4), dtype=np.uint8)
    sizes = sorted_phi.abs().amax(dim=0)
    atoms = gray_picture(0.5 + 0.5 * sorted_phi / torch.where(sizes > 0, sizes, 1.0))
    atoms = atoms.reshape(side, side, channels, m, n)
    for place in range(m):
        top, left = grid.corner(place)
        for member in range(n):
            x = left + member * (side + gap)
            canvas[top : top + side, x : x + side, :3] = atoms[..., place, member]
            canvas[top : top + side, x : x + side, 3] = 255
    return canvas


def row_picture(atoms: Float[Tensor, "count side side"], *, limit: float, gap: int = 1) -> Pixels:
    """Draw atoms side by side on one scale, ±limit white and black; RGBA, transparent between atoms."""
    count, side, _ = atoms.shape
    canvas = np.zeros((side, count * (side + gap) - gap, 4), dtype=np.uint8)
    for place, atom in enumerate(atoms):
        x = place * (side + gap)
        canvas[:, x : x + side, :3] = signed_picture(atom, limit=limit)[..., None]
        canvas[:, x : x + side, 3] = 255
    return canvas


@dataclass(frozen=True)
class Mosaic:
    """Lay out square blocks in a picture that is about as wide as high, one pixel apart.

    Attributes:
        count: Number of blocks.
        side: Side of a block, pixels.
        margin: Pixels above each block.
    """

    count: int
    side: int
    margin: int = 0

    @property
    def width(self) -> int:
        """Width of the picture, pixels."""
        return self._columns * (self.side + 1) - 1

    @property
    def height(self) -> int:
        """Height of the picture, pixels."""
        return math.ceil(self.count / self._columns) * (self.side + 1 + self.margin) - 1

    def corner(self, place: int) -> tuple[int, int]:
        """Return row and column of the upper left pixel of a block."""
        row, column = divmod(place, self._columns)
        return row * (self.side + 1 + self.margin) + self.margin, column * (self.side + 1)

    @property
    def _columns(self) -> int:
        return math.ceil(math.sqrt(self.count))


def residual_sizes(
    phi: Phi, order: Tensor | None = None, *, side: int | None = None
) -> Float[Tensor, "groups pixels pixels"]:
    """Compute |X_jk| of groups, in blocks of pixels.

    Args:
        phi: Φ[l, m, n].
        order: Indices of the groups, in order; by default all.
        side: Largest side of a block in pixels; a pixel shows the largest of its entries.

    Returns:
        The blocks, in float64; the Gram matrices of a few groups are in memory at a time.
    """
    chosen = range(phi.shape[1]) if order is None else order.tolist()
    n = phi.shape[2]
    chunk = max(1, _NUMBERS // (n * n))
    blocks: list[Tensor] = []
    for first in range(0, len(chosen), chunk):
        sizes = reference.residual(phi[:, list(chosen[first : first + chunk])].double()).abs()
        blocks.append(sizes if side is None or side >= n else adaptive_max_pool2d(sizes[:, None], side)[:, 0])
    return torch.cat(blocks)


def residual_picture(
    sizes: Float[Tensor, "groups pixels pixels"], *, limits: tuple[float, float] = RESIDUAL_RANGE, margin: int = 0
) -> Pixels:
    """Draw log |X_jk| of groups as a mosaic of blocks.

    Args:
        sizes: |X| in blocks, from `residual_sizes`.
        limits: Values of the darkest and the brightest colour.
        margin: Transparent pixels above each block.

    Returns:
        RGBA pixels, transparent between the blocks.
    """
    count, side, _ = sizes.shape
    mosaic = Mosaic(count, side, margin)
    low, high = (math.log10(limit) for limit in limits)
    level = ((sizes.clamp_min(limits[0]).log10() - low) / (high - low)).clamp(0, 1)
    canvas = np.zeros((mosaic.height, mosaic.width, 4), dtype=np.uint8)
    for place, block in enumerate(_colours(level.flatten(0, 1)).reshape(count, side, side, 4)):
        top, left = mosaic.corner(place)
        canvas[top : top + side, left : left + side] = block
    return canvas


def amplitude_picture(amplitudes: Float[Tensor, "rows columns"], *, largest: float) -> Pixels:
    """Draw the amplitude of a group at every place, from 0 (dark) to `largest`."""
    return _colours((amplitudes / (largest or 1.0)).clamp(0, 1))


def direction_picture(
    amplitudes: Float[Tensor, "rows columns"], directions: Float[Tensor, "n rows columns"], *, largest: float
) -> Pixels:
    """Draw the code of a group: hue is the angle in the plane it uses most, brightness the amplitude."""
    n, rows, columns = directions.shape
    code = (directions * amplitudes).flatten(1).double()
    axes = torch.linalg.eigh(code @ code.mT).eigenvectors[:, -min(n, 2) :]
    plane = axes.mT @ code
    angle = torch.atan2(plane[0], plane[-1] if n > 1 else torch.zeros_like(plane[0]))
    return _hues(angle.view(rows, columns) / (2 * math.pi) + 0.5, (amplitudes / (largest or 1.0)).clamp(0, 1))


def _colours(level: Float[Tensor, "rows columns"]) -> Pixels:
    with needs_extra("gramian.report", "coding"):
        import matplotlib

    return matplotlib.colormaps["magma"](level.numpy(), bytes=True)


def _hues(hue: Float[Tensor, "rows columns"], value: Float[Tensor, "rows columns"]) -> Pixels:
    from matplotlib.colors import hsv_to_rgb

    hsv = np.stack([hue.numpy() % 1, np.full(hue.shape, 0.75), value.double().sqrt().numpy()], axis=-1)
    return (hsv_to_rgb(hsv) * 255).round().astype(np.uint8)
