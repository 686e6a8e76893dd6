"""Draw patches that are not flat from whitened images, and scale them to unit variance."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from gramian.errors import DataError
from gramian.images.samples.whitening import ZCAWhitening

__all__ = ["PatchSampler", "Pictures", "image_to_patches", "patches_to_image"]

Pixels = Float[Tensor, "height width *channels"]

Pictures = Sequence[Float[Tensor, "_ _ *channels"]]
"""Pictures of any sizes, all grey or all with the same number of channels."""


_ROUNDING = 1e-6
"""Largest standard deviation, relative to the largest pixel, of a patch that counts as constant."""

_TO_MEASURE = 10_000
"""Number of patches from which the scale of whitened patches is estimated."""


class PatchSampler:
    """Draw patches from pictures, uniformly over all places that are not flat.

    A place is flat if the standard deviation of its patch is below `flat` times the root mean square of the standard
    deviations of all patches, or at the level of rounding. Sky and walls, about a third of natural pictures, have no
    structure to learn. The mean of every channel is subtracted from a patch, and all patches are divided by one scale,
    so that the drawn patches have unit variance on average.

    Args:
        pictures: Whitened pictures.
        size: Side of a patch, pixels.
        flat: Threshold of flatness.
        scale: Common divisor; by default that which gives unit variance. For held-out pictures pass the training scale.
        whiten: Whitening of each patch; by default none.

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

    def __init__(
        self,
        pictures: Pictures,
        *,
        size: int,
        flat: float = 0.3,
        scale: float | None = None,
        whiten: ZCAWhitening | None = None,
    ) -> None:
        if size < 2:
            raise DataError(f"patches must have a side of at least 2 pixels; got {size}; try size=16")
        for picture in pictures:
            if min(picture.shape[:2]) < size:
                raise DataError(
                    f"pictures must be at least as large as a patch, {size} × {size}; got {tuple(picture.shape[:2])}; "
                    "try smaller patches"
                )
        if not pictures:
            raise DataError("there must be at least one picture to draw patches from; got none")
        variances = [_local_variance(picture, size) for picture in pictures]
        everywhere = torch.cat([variance.flatten() for variance in variances])
        threshold = flat * flat * float(everywhere.mean())
        # The variance of a picture of one grey value is that of rounding only.
        floors = [(_ROUNDING * float(picture.abs().max())) ** 2 for picture in pictures]
        thresholds = [max(threshold, floor) for floor in floors]
        textured = torch.cat([(v > t).flatten() for v, t in zip(variances, thresholds, strict=True)])
        if not bool(textured.any()):
            raise DataError("some patches must not be flat; got pictures of one grey value; try other pictures")
        self.size = size
        self.flat_fraction = 1 - float(textured.double().mean())
        self._pixels = torch.cat([picture.flatten(0, 1) for picture in pictures])
        self._corners, self._strides = _places(pictures, variances, thresholds)
        self._whiten = whiten
        self.scale = 1.0
        if scale is not None:
            self.scale = scale
        elif whiten is None:
            self.scale = float(everywhere[textured].mean().sqrt())
        else:
            self.scale = float(self.sample(_TO_MEASURE, seed=0, step=0).square().mean().sqrt())

    def sample(self, count: int, *, seed: int, step: int) -> Float[Tensor, "count pixels"]:
        """Draw patches as a pure function of seed and step, so that a resumed run draws the same ones.

        Args:
            count: Number of patches.
            seed: Seed of the run.
            step: Index of the draw.

        Returns:
            Patches [count, size²·channels] of mean zero; the channels of a pixel are adjacent.
        """
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        chosen = torch.randint(len(self._corners), (count,), generator=generator)
        corner, stride = self._corners[chosen, None, None], self._strides[chosen, None, None]
        side = torch.arange(self.size, device="cpu")
        patches = self._pixels[corner + side[:, None] * stride + side]
        patches = (patches - patches.mean(dim=(1, 2), keepdim=True)).flatten(1)
        return (patches if self._whiten is None else self._whiten.whiten(patches)) / self.scale


def image_to_patches(picture: Pixels, *, size: int, stride: int) -> Float[Tensor, "count pixels"]:
    """Divide a picture into overlapping patches that cover it; the last row and column end at the edge.

    Args:
        picture: Picture [height, width], or with channels [height, width, channels], at least `size` on each side.
        size: Side of a patch.
        stride: Distance between patches, 1 to `size`.

    Returns:
        Patches [rows·columns, size²·channels], row by row, with their means.

    Raises:
        DataError: If the picture is smaller than a patch, or the stride leaves gaps.

    Examples:
        >>> import torch
        >>> image_to_patches(torch.zeros(20, 30), size=8, stride=4).shape
        torch.Size([28, 64])
    """
    rows, columns = (_offsets(side, size, stride) for side in picture.shape[:2])
    windows = picture.unfold(0, size, 1).unfold(1, size, 1)  # a channel axis comes before the axes of the patch
    chosen = windows[rows[:, None], columns[None, :]]
    if picture.ndim == 3:
        chosen = chosen.movedim(2, -1)
    return chosen.reshape(len(rows) * len(columns), -1)


def patches_to_image(patches: Float[Tensor, "count pixels"], *, shape: Sequence[int], size: int, stride: int) -> Pixels:
    """Assemble a picture from patches, averaged where they overlap; the inverse of `image_to_patches`.

    Args:
        patches: Patches [rows·columns, size²·channels].
        shape: Shape of the picture, [height, width] or [height, width, channels].
        size: Side of a patch.
        stride: Distance between patches.

    Returns:
        The picture.

    Raises:
        DataError: If a picture of that shape has another number of patches.

    Examples:
        >>> import torch
        >>> picture = torch.rand(20, 30)
        >>> patches = image_to_patches(picture, size=8, stride=3)
        >>> torch.allclose(patches_to_image(patches, shape=(20, 30), size=8, stride=3), picture)
        True
    """
    expected = math.prod(_places_along(side, size, stride) for side in shape[:2])
    channels = shape[2] if len(shape) == 3 else 1
    if patches.shape != (expected, size * size * channels):
        raise DataError(
            f"a picture of shape {list(shape)} is cut into {expected} patches of {size * size * channels} numbers at a "
            f"stride of {stride}; got {list(patches.shape)}"
        )
    rows, columns = (_offsets(side, size, stride).to(patches.device) for side in shape[:2])
    side = torch.arange(size, device=patches.device)
    down = (rows[:, None] + side)[:, None, :, None]
    across = (columns[:, None] + side)[None, :, None, :]
    index = (down * shape[1] + across).reshape(-1)
    total = torch.zeros((shape[0] * shape[1], channels), dtype=patches.dtype, device=patches.device)
    total.index_add_(0, index, patches.reshape(-1, channels))
    count = torch.zeros_like(total[:, :1]).index_add_(0, index, torch.ones_like(index, dtype=patches.dtype)[:, None])
    return (total / count).view(*shape)


def _places_along(side: int, size: int, stride: int) -> int:
    """Return the number of patches along a side."""
    if side < size:
        raise DataError(f"a picture must be at least as large as a patch of side {size}; got a side of {side}")
    if not 1 <= stride <= size:
        raise DataError(f"stride must lie between 1 and the patch's side {size}, to leave no gaps; got {stride}")
    return -((size - side) // stride) + 1


def _offsets(side: int, size: int, stride: int) -> Int[Tensor, " places"]:
    count = _places_along(side, size, stride)
    return (stride * torch.arange(count, device="cpu")).clamp_max(side - size)


def _local_variance(picture: Pixels, size: int) -> Float[Tensor, "rows columns"]:
    """Return the variance of the patch at every place, averaged over channels."""
    wide = picture.double()
    planes = wide[None, None] if wide.ndim == 2 else wide.movedim(2, 0)[:, None]
    mean = functional.avg_pool2d(planes, size, stride=1)
    square = functional.avg_pool2d(planes.square(), size, stride=1)
    return (square - mean.square()).clamp_min(0).mean(dim=0)[0]


def _places(
    pictures: Pictures, variances: Sequence[Tensor], thresholds: Sequence[float]
) -> tuple[Int[Tensor, " places"], Int[Tensor, " places"]]:
    corners: list[Tensor] = []
    strides: list[Tensor] = []
    start = 0
    for picture, variance, threshold in zip(pictures, variances, thresholds, strict=True):
        width = picture.shape[1]
        rows, columns = (variance > threshold).nonzero(as_tuple=True)
        corners.append(start + rows * width + columns)
        strides.append(torch.full_like(rows, width))
        start += picture.shape[0] * width
    return torch.cat(corners), torch.cat(strides)
