"""Whitening makes the power of natural images, which falls as 1/f², equal at all scales."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import DataError, OptionError

__all__ = ["FourierWhitening", "ZCAWhitening"]

Pixels = Float[Tensor, "height width *channels"]


@dataclass(frozen=True)
class FourierWhitening:
    r"""Whiten whole images by the filter R(f) = f·exp(−(f/f₀)⁴).

    The factor f compensates amplitudes that fall as 1/f; the second factor removes the corners of the spectrum, which
    hold only noise of the pixel grid. Images are mirrored at their edges before the transform, to avoid ringing across
    opposite edges.

    Args:
        cutoff: f₀, cycles per pixel.

    Raises:
        OptionError: If the cut-off is not positive.

    Examples:
        >>> import torch
        >>> picture = torch.rand(64, 80).cumsum(0).cumsum(1)
        >>> abs(FourierWhitening().whiten(picture).mean().item()) < 1e-3
        True

    References:
        Olshausen and Field, "Sparse coding with an overcomplete basis set: a strategy employed by V1?", 1997.
    """

    cutoff: float = 0.4

    def __post_init__(self) -> None:
        if not self.cutoff > 0:
            raise OptionError(f"cutoff must be positive, in cycles per pixel; got {self.cutoff!r}; try cutoff=0.4")

    def whiten(self, pixels: Pixels) -> Pixels:
        """Whiten each channel of a picture; return a new tensor with means zero, in units of its grey values."""
        filtered = self._filtered(pixels, inverse=False)
        return filtered - filtered.mean(dim=(0, 1))

    def unwhiten(self, whitened: Pixels, *, mean: float | Tensor) -> Pixels:
        """Undo `whiten` approximately: brightness that varies over more than half the picture is lost.

        Args:
            whitened: A whitened picture, or its reconstruction.
            mean: Mean grey value of the result, which whitening removed; one value per channel for colours.
        """
        restored = self._filtered(whitened, inverse=True)
        return restored - restored.mean(dim=(0, 1)) + mean

    def _filtered(self, pixels: Pixels, *, inverse: bool) -> Pixels:
        if pixels.ndim == 3:
            return torch.stack([self._filtered(channel, inverse=inverse) for channel in pixels.unbind(2)], dim=2)
        height, width = pixels.shape
        doubled = torch.cat([pixels, pixels.flip(0)], dim=0)
        doubled = torch.cat([doubled, doubled.flip(1)], dim=1)
        rows = torch.fft.fftfreq(2 * height, dtype=torch.float64, device=pixels.device)
        columns = torch.fft.rfftfreq(2 * width, dtype=torch.float64, device=pixels.device)
        frequency = (rows[:, None].square() + columns[None, :].square()).sqrt()
        response = frequency * torch.exp(-((frequency / self.cutoff) ** 4))
        if inverse:
            # Below one cycle per picture and in the corners the filter is nearly 0: its inverse would amplify noise.
            floor = 1.0 / max(height, width)
            response = response / (response.square() + floor * floor * 0.25)
        spectrum = torch.fft.rfft2(doubled.double()) * response
        return torch.fft.irfft2(spectrum, s=(2 * height, 2 * width))[:height, :width].to(pixels.dtype)


@dataclass(frozen=True)
class ZCAWhitening:
    r"""Whiten patches by x ↦ (x − mean) C^{−1/2}, the whitening that changes patches least.

    Eigenvalues of the covariance C below `floor` times the largest are raised to that value: the covariance of smooth
    patches is nearly singular, and eigenvectors of small eigenvalues hold noise.

    Attributes:
        mean: Mean patch.
        matrix: C^{−1/2}, symmetric.
        inverse: C^{1/2}.

    Examples:
        >>> import torch
        >>> patches = torch.randn(1000, 9).cumsum(1)
        >>> white = ZCAWhitening.fit(patches).whiten(patches)
        >>> (white.T @ white / 1000 - torch.eye(9)).abs().max().item() < 0.01
        True

    References:
        Bell and Sejnowski, "The 'independent components' of natural scenes are edge filters", 1997.
    """

    mean: Float[Tensor, " l"]
    matrix: Float[Tensor, "l l"]
    inverse: Float[Tensor, "l l"]

    @classmethod
    def fit(cls, patches: Float[Tensor, "samples l"], *, floor: float = 1e-5) -> "ZCAWhitening":
        """Fit a whitening to patches.

        Raises:
            DataError: If there are fewer than two patches, or all are equal.
        """
        if len(patches) < 2:
            raise DataError(f"ZCA whitening must be fitted to at least two patches; got {len(patches)}")
        wide = patches.double()
        mean = wide.mean(dim=0)
        covariance = (wide - mean).mT @ (wide - mean) / len(patches)
        values, vectors = torch.linalg.eigh(covariance)
        largest = values[-1]
        if not float(largest) > 0:
            raise DataError("ZCA whitening must be fitted to patches that differ; got patches that are all equal")
        roots = values.clamp_min(floor * largest).sqrt()
        matrix = (vectors / roots) @ vectors.mT
        inverse = (vectors * roots) @ vectors.mT
        return cls(mean.to(patches.dtype), matrix.to(patches.dtype), inverse.to(patches.dtype))

    def whiten(self, patches: Float[Tensor, "samples l"]) -> Float[Tensor, "samples l"]:
        """Whiten patches."""
        return (patches - self.mean) @ self.matrix

    def unwhiten(self, whitened: Float[Tensor, "samples l"]) -> Float[Tensor, "samples l"]:
        """Undo `whiten` exactly."""
        return whitened @ self.inverse + self.mean
