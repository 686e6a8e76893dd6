"""From a picture to the samples that a dictionary codes, and back: everything that must be kept to encode later."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.data.patches import PatchSampler, Pictures, image_to_patches, patches_to_image
from gramian.data.whitening import FourierWhitening, ZCAWhitening
from gramian.errors import DataError, OptionError

__all__ = ["WHITENINGS", "Preparation", "Samples"]

Pixels = Float[Tensor, "height width *channels"]

WHITENINGS = ("fourier", "zca", "none")
"""How pictures are whitened: whole, by a filter; patch by patch, by the covariance of patches; or not at all."""

_ROUNDING = 1e-6
"""Difference of pixels, of [0, 1], up to which they count as equal."""

_PATCHES = 20_000
"""How many patches the covariance is estimated from."""


@dataclass(frozen=True)
class Samples:
    """The patches of one picture, ready to be coded.

    Attributes:
        x: Samples [count, l].
        means: What was taken off each patch, [count, channels].
        mean: Mean of the picture, [channels].
        shape: Shape of the picture.
        stride: Distance between patches, pixels.
    """

    x: Float[Tensor, "count l"]
    means: Float[Tensor, "count channels"]
    mean: Float[Tensor, " channels"]
    shape: tuple[int, ...]
    stride: int


@dataclass(frozen=True)
class Preparation:
    """How samples are made of pictures.

    Attributes:
        size: Side of a patch, pixels.
        channels: 1 for grey pictures, 3 for colours.
        whiten: 'fourier', 'zca' or 'none'.
        scale: What samples are divided by, to have unit variance.
        cutoff: Cut-off of the Fourier filter, cycles per pixel.
        mixing: What decorrelates the channels of a Fourier-whitened picture, [channels, channels]; None for grey ones.
        zca: Whitening of patches; None unless `whiten` is 'zca'.
    """

    size: int
    channels: int = 1
    whiten: str = "fourier"
    scale: float = 1.0
    cutoff: float = 0.4
    mixing: Tensor | None = None
    zca: ZCAWhitening | None = None

    @classmethod
    def fit(
        cls, pictures: Pictures, *, size: int, whiten: str = "fourier", cutoff: float = 0.4
    ) -> tuple["Preparation", PatchSampler]:
        """Fit to the pictures that are learned from.

        Args:
            pictures: Pictures in [0, 1].
            size: Side of a patch, pixels.
            whiten: 'fourier', 'zca' or 'none'.
            cutoff: Cut-off of the Fourier filter, cycles per pixel.

        Returns:
            The preparation, and a sampler of prepared patches of these pictures.

        Raises:
            OptionError: If there is no such whitening.
            DataError: If pictures are too small or too flat, or not all of them have as many channels.

        Examples:
            >>> import torch
            >>> pictures = [torch.rand(40, 50).cumsum(1) / 50 for _ in range(3)]
            >>> preparation, sampler = Preparation.fit(pictures, size=8, whiten="zca")
            >>> 0.9 < sampler.sample(1000, seed=1, step=0).std().item() < 1.1
            True
        """
        if whiten not in WHITENINGS:
            raise OptionError(f"whiten must be one of {', '.join(map(repr, WHITENINGS))}; got {whiten!r}")
        channels = {1 if picture.ndim == 2 else picture.shape[2] for picture in pictures}
        if len(channels) > 1:
            raise DataError(f"pictures must all be grey or all have as many channels; got {sorted(channels)}")
        _require_contrast(pictures)
        plain = cls(size, channels.pop() if channels else 1, whiten, cutoff=cutoff)
        mixing = _mixing([plain.filtered(picture) for picture in pictures]) if plain.channels > 1 else None
        mixed = cls(size, plain.channels, whiten, cutoff=cutoff, mixing=mixing if whiten == "fourier" else None)
        zca = None
        if whiten == "zca":
            drawn = PatchSampler([mixed.filtered(picture) for picture in pictures], size=size, scale=1.0)
            zca = ZCAWhitening.fit(drawn.sample(_PATCHES, seed=0, step=0))
        sampler = PatchSampler([mixed.filtered(picture) for picture in pictures], size=size, whiten=zca)
        return cls(size, plain.channels, whiten, sampler.scale, cutoff, mixed.mixing, zca), sampler

    def sampler(self, pictures: Pictures) -> PatchSampler:
        """Draw samples from other pictures, prepared as the first were.

        Raises:
            DataError: If pictures are too small or too flat, or have other channels.
        """
        _require_contrast(pictures)
        filtered = [self.filtered(picture) for picture in pictures]
        return PatchSampler(filtered, size=self.size, scale=self.scale, whiten=self.zca)

    def filtered(self, pixels: Pixels) -> Pixels:
        """Give the picture that patches are cut from: whitened as a whole, where that is the whitening.

        Raises:
            DataError: If it has other channels than the preparation.
        """
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        if channels != self.channels:
            raise DataError(f"pictures must have {self.channels} channels, as those learned from; got {channels}")
        if self.whiten != "fourier":
            return pixels
        whitened = FourierWhitening(self.cutoff).whiten(pixels)
        return whitened if self.mixing is None else whitened @ self.mixing

    def samples(self, pixels: Pixels, *, stride: int) -> Samples:
        """Cut a picture into samples that cover it whole.

        Args:
            pixels: A picture in [0, 1].
            stride: Distance between patches, 1 to `size`.

        Returns:
            The samples, with what is needed to put them back.

        Raises:
            DataError: If the picture is smaller than a patch, has other channels, or the stride leaves gaps.
        """
        patches = image_to_patches(self.filtered(pixels), size=self.size, stride=stride)
        by_channel = patches.view(len(patches), -1, self.channels)
        means = by_channel.mean(dim=1)
        x = (by_channel - means[:, None]).flatten(1)
        x = (x if self.zca is None else self.zca.whiten(x)) / self.scale
        return Samples(x, means, pixels.flatten(0, 1).reshape(-1, self.channels).mean(dim=0), pixels.shape, stride)

    def join(self, x: Float[Tensor, "count l"], samples: Samples) -> Pixels:
        """Put samples back into the picture that they were cut from, as `filtered` gives it.

        Args:
            x: Samples, or what codes say of them.
            samples: What they were.
        """
        x = x * self.scale
        x = x if self.zca is None else self.zca.unwhiten(x)
        patches = (x.view(len(x), -1, self.channels) + samples.means[:, None]).flatten(1)
        return patches_to_image(patches, shape=samples.shape, size=self.size, stride=samples.stride)

    def picture(self, x: Float[Tensor, "count l"], samples: Samples) -> Pixels:
        """Put samples back as a picture to look at, in [0, 1]; brightness that the filter took away is lost.

        Args:
            x: Samples, or what codes say of them.
            samples: What they were.
        """
        joined = self.join(x, samples)
        if self.whiten == "fourier":
            if self.mixing is not None:
                joined = joined @ torch.linalg.inv(self.mixing)
            mean = samples.mean if joined.ndim == 3 else samples.mean[0]
            joined = FourierWhitening(self.cutoff).unwhiten(joined, mean=mean)
        return joined.clamp(0, 1)


def _require_contrast(pictures: Pictures) -> None:
    """Check before whitening, which makes something of the rounding of pictures of one value, black or grey."""
    spans = [float((picture.amax(dim=(0, 1)) - picture.amin(dim=(0, 1))).max()) for picture in pictures]
    if pictures and max(spans) <= _ROUNDING:
        raise DataError("some patches must not be flat; got pictures of one grey value; try other pictures")


def _mixing(pictures: Pictures) -> Float[Tensor, "channels channels"]:
    """Give the symmetric matrix that decorrelates channels, and keeps their mean variance."""
    everything = torch.cat([picture.flatten(0, 1) for picture in pictures])
    white = ZCAWhitening.fit(everything).matrix
    return white * everything.square().mean().sqrt()
