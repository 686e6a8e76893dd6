"""Patches: cut from whitened images, flat ones left out, scaled to unit variance."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from gramian.errors import DataError

__all__ = ["PatchSampler", "image_to_patches", "patches_to_image"]

Picture = Float[Tensor, "height width"]

Pictures = Sequence[Float[Tensor, "_ _"]]
"""Pictures of any sizes."""


class PatchSampler:
    """Draw patches from pictures, uniformly over all places that are not flat.

    A place is flat if the standard deviation of its patch is below `flat` times the root mean square of the standard
    deviations of all patches: sky and walls, about a third of natural pictures, hold nothing to learn. Patches lose
    their mean and are divided by one common scale, so that the patches kept have unit variance on average.

    Args:
        pictures: Whitened pictures.
        size: Side of a patch, pixels.
        flat: Threshold of flatness.
        scale: Common divisor; default the one that gives unit variance. Give training's scale for held-out pictures.

    Attributes:
        scale: The common divisor.
        flat_fraction: Fraction of places that are flat.

    Raises:
        DataError: If a picture is smaller than a patch, a patch has fewer than 2 × 2 pixels, or every place is flat.

    Cost:
        Finding the flat places: a few passes over the pictures. Drawing: one gather.

    Examples:
        >>> import torch
        >>> sampler = PatchSampler([torch.randn(64, 64)], size=8)
        >>> sampler.sample(5, seed=0, step=3).shape
        torch.Size([5, 64])
    """

    def __init__(self, pictures: Pictures, *, size: int, flat: float = 0.3, scale: float | None = None) -> None:
        if size < 2:
            raise DataError(f"patches must have a side of at least 2 pixels; got {size}; try size=16")
        for picture in pictures:
            if min(picture.shape) < size:
                raise DataError(
                    f"pictures must be at least as large as a patch, {size} × {size}; got {tuple(picture.shape)}; "
                    "try smaller patches"
                )
        if not pictures:
            raise DataError("there must be at least one picture to draw patches from; got none")
        variances = [_local_variance(picture, size) for picture in pictures]
        everywhere = torch.cat([variance.flatten() for variance in variances])
        threshold = flat * flat * float(everywhere.mean())
        kept = everywhere > threshold
        if not bool(kept.any()):
            raise DataError("some patches must not be flat; got pictures of one grey value; try other pictures")
        self.size = size
        self.flat_fraction = 1 - float(kept.double().mean())
        self.scale = float(everywhere[kept].mean().sqrt()) if scale is None else scale
        self._pixels = torch.cat([picture.flatten() for picture in pictures]) / self.scale
        self._corners, self._strides = _places(pictures, variances, threshold)

    def sample(self, count: int, *, seed: int, step: int) -> Float[Tensor, "count pixels"]:
        """Draw patches: a pure function of the seed and the step, so that a resumed run draws the same.

        Args:
            count: How many.
            seed: Seed of the run.
            step: Number of the draw.

        Returns:
            Patches [count, size²] of mean zero.
        """
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        chosen = torch.randint(len(self._corners), (count,), generator=generator)
        corner, stride = self._corners[chosen, None, None], self._strides[chosen, None, None]
        side = torch.arange(self.size)
        patches = self._pixels[corner + side[:, None] * stride + side].flatten(1)
        return patches - patches.mean(dim=1, keepdim=True)


def image_to_patches(picture: Picture, *, size: int, stride: int) -> Float[Tensor, "count pixels"]:
    """Cut a picture into overlapping patches that cover it whole; the last row and column move in from the edge.

    Args:
        picture: Picture [height, width], at least `size` on each side.
        size: Side of a patch.
        stride: Distance between patches, 1 to `size`.

    Returns:
        Patches [rows·columns, size²], row by row, with their means.

    Raises:
        DataError: If the picture is smaller than a patch, or the stride leaves gaps.

    Examples:
        >>> import torch
        >>> image_to_patches(torch.zeros(20, 30), size=8, stride=4).shape
        torch.Size([28, 64])
    """
    rows, columns = (_offsets(side, size, stride) for side in picture.shape)
    windows = picture.unfold(0, size, 1).unfold(1, size, 1)
    return windows[rows[:, None], columns[None, :]].reshape(-1, size * size)


def patches_to_image(
    patches: Float[Tensor, "count pixels"], *, shape: tuple[int, int], size: int, stride: int
) -> Picture:
    """Put patches back, averaged where they overlap; the exact inverse of `image_to_patches`.

    Examples:
        >>> import torch
        >>> picture = torch.rand(20, 30)
        >>> patches = image_to_patches(picture, size=8, stride=3)
        >>> torch.allclose(patches_to_image(patches, shape=(20, 30), size=8, stride=3), picture)
        True
    """
    rows, columns = (_offsets(side, size, stride) for side in shape)
    side = torch.arange(size)
    down = (rows[:, None] + side)[:, None, :, None]
    across = (columns[:, None] + side)[None, :, None, :]
    index = (down * shape[1] + across).reshape(-1)
    total = torch.zeros(shape[0] * shape[1], dtype=patches.dtype)
    total.index_add_(0, index, patches.reshape(-1))
    count = torch.zeros_like(total).index_add_(0, index, torch.ones_like(index, dtype=patches.dtype))
    return (total / count).view(shape)


def _offsets(side: int, size: int, stride: int) -> Int[Tensor, " places"]:
    if side < size:
        raise DataError(f"a picture must be at least as large as a patch of side {size}; got a side of {side}")
    if not 1 <= stride <= size:
        raise DataError(f"stride must lie between 1 and the patch's side {size}, to leave no gaps; got {stride}")
    regular = torch.arange(0, side - size + 1, stride)
    return regular if int(regular[-1]) == side - size else torch.cat([regular, torch.tensor([side - size])])


def _local_variance(picture: Picture, size: int) -> Float[Tensor, "rows columns"]:
    wide = picture.double()[None, None]
    mean = functional.avg_pool2d(wide, size, stride=1)
    square = functional.avg_pool2d(wide.square(), size, stride=1)
    return (square - mean.square()).clamp_min(0)[0, 0]


def _places(
    pictures: Pictures, variances: Sequence[Tensor], threshold: float
) -> tuple[Int[Tensor, " places"], Int[Tensor, " places"]]:
    corners: list[Tensor] = []
    strides: list[Tensor] = []
    start = 0
    for picture, variance in zip(pictures, variances, strict=True):
        width = picture.shape[1]
        rows, columns = (variance > threshold).nonzero(as_tuple=True)
        corners.append(start + rows * width + columns)
        strides.append(torch.full_like(rows, width))
        start += picture.numel()
    return torch.cat(corners), torch.cat(strides)
