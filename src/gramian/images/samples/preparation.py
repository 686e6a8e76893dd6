"""Convert pictures to the samples that a dictionary encodes, and back, with all parameters of the conversion."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import DataError, OptionError
from gramian.images.samples.patches import PatchSampler, Pictures, image_to_patches, patches_to_image
from gramian.images.samples.whitening import FourierWhitening, ZCAWhitening

__all__ = ["WHITENINGS", "Preparation", "Samples"]

Pixels = Float[Tensor, "height width *channels"]

WHITENINGS = ("fourier", "zca", "none")
"""Whitenings: of whole pictures by a filter, of patches by their covariance, or none."""

_ROUNDING = 1e-6
"""Difference of pixels in [0, 1] up to which they count as equal."""

_PATCHES = 20_000
"""Number of patches from which the covariance is estimated."""


@dataclass(frozen=True)
class Samples:
    """The prepared patches of one picture.

    Attributes:
        x: Samples [count, l].
        means: Means subtracted from each patch, [count, channels].
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
    """The parameters that convert pictures to samples.

    Attributes:
        size: Side of a patch, pixels.
        channels: 1 for grey pictures, 3 for colours.
        whiten: 'fourier', 'zca' or 'none'.
        scale: Divisor of samples, for unit variance.
        cutoff: Cut-off of the Fourier filter, cycles per pixel.
        mixing: Matrix [channels, channels] that decorrelates a Fourier-whitened picture; None for grey ones.
        zca: Whitening of patches; None unless `whiten` is 'zca'.
    """

    size: int
    channels: int = 1
    whiten: str = "fourier"
    scale: float = 1.0
    cutoff: float = 0.4
    mixing: Tensor | None = None
    zca: ZCAWhitening | None = None

    @property
    def length(self) -> int:
        """Length l of a sample: size² × channels."""
        return self.size**2 * self.channels

    def stored_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a dictionary file stores, by name."""
        zca = {} if self.zca is None else {f"zca.{name}": tensor for name, tensor in vars(self.zca).items()}
        return zca if self.mixing is None else {"mixing": self.mixing, **zca}

    def stored_values(self) -> dict[str, int | float | str]:
        """Return the values that a dictionary file stores in its metadata, by name."""
        return {
            "size": self.size,
            "channels": self.channels,
            "whiten": self.whiten,
            "scale": self.scale,
            "cutoff": self.cutoff,
        }

    @classmethod
    def fit(
        cls, pictures: Pictures, *, size: int, whiten: str = "fourier", cutoff: float = 0.4
    ) -> tuple["Preparation", PatchSampler]:
        """Fit a preparation to the training pictures.

        Args:
            pictures: Pictures in [0, 1].
            size: Side of a patch, pixels.
            whiten: 'fourier', 'zca' or 'none'.
            cutoff: Cut-off of the Fourier filter, cycles per pixel.

        Returns:
            The preparation, and a sampler of prepared patches of these pictures.

        Raises:
            OptionError: If there is no such whitening.
            DataError: If pictures are too small or too flat, or differ in their number of channels.

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
        """Return a sampler of other pictures with this preparation.

        Raises:
            DataError: If pictures are too small or too flat, or have other channels.
        """
        _require_contrast(pictures)
        filtered = [self.filtered(picture) for picture in pictures]
        return PatchSampler(filtered, size=self.size, scale=self.scale, whiten=self.zca)

    def filtered(self, pixels: Pixels) -> Pixels:
        """Return the picture from which patches are cut: Fourier-whitened, or unchanged for other whitenings.

        Raises:
            DataError: If the number of channels differs from that of the preparation.
        """
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        if channels != self.channels:
            raise DataError(f"pictures must have {self.channels} channels, as those learned from; got {channels}")
        if self.whiten != "fourier":
            return pixels
        whitened = FourierWhitening(self.cutoff).whiten(pixels)
        return whitened if self.mixing is None else whitened @ self.mixing

    def samples(self, pixels: Pixels, *, stride: int) -> Samples:
        """Divide a picture into samples that cover it.

        Args:
            pixels: A picture in [0, 1].
            stride: Distance between patches, 1 to `size`.

        Returns:
            The samples, with means, shape and stride for `join`.

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
        """Assemble samples to a picture in the form that `filtered` returns.

        Args:
            x: Samples, or their reconstruction from codes.
            samples: The original samples.
        """
        x = x * self.scale
        x = x if self.zca is None else self.zca.unwhiten(x)
        patches = (x.view(len(x), -1, self.channels) + samples.means[:, None]).flatten(1)
        return patches_to_image(patches, shape=samples.shape, size=self.size, stride=samples.stride)

    def picture(self, x: Float[Tensor, "count l"], samples: Samples) -> Pixels:
        """Assemble samples to a picture in [0, 1]; brightness that the filter removed is lost.

        Args:
            x: Samples, or their reconstruction from codes.
            samples: The original samples.
        """
        joined = self.join(x, samples)
        if self.whiten == "fourier":
            if self.mixing is not None:
                joined = joined @ torch.linalg.inv(self.mixing)
            mean = samples.mean if joined.ndim == 3 else samples.mean[0]
            joined = FourierWhitening(self.cutoff).unwhiten(joined, mean=mean)
        return joined.clamp(0, 1)


def _require_contrast(pictures: Pictures) -> None:
    """Check that pictures are not constant, because whitening would amplify their rounding errors."""
    spans = [float((picture.amax(dim=(0, 1)) - picture.amin(dim=(0, 1))).max()) for picture in pictures]
    if pictures and max(spans) <= _ROUNDING:
        raise DataError("some patches must not be flat; got pictures of one grey value; try other pictures")


def _mixing(pictures: Pictures) -> Float[Tensor, "channels channels"]:
    """Return the symmetric matrix that decorrelates channels and preserves their mean variance."""
    everything = torch.cat([picture.flatten(0, 1) for picture in pictures])
    white = ZCAWhitening.fit(everything).matrix
    return white * everything.square().mean().sqrt()
