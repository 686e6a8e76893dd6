"""Whitening levels the spectrum, and can be undone."""

import pytest
import torch

from gramian.errors import DataError, OptionError
from gramian.images.samples import FourierWhitening, PatchSampler, ZCAWhitening, shipped_images


def power(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Radial frequency and power of the middle of a picture, windowed."""
    side = min(picture.shape)
    window = torch.hann_window(side)[:, None] * torch.hann_window(side)
    spectrum = torch.fft.fft2((picture[:side, :side] - picture[:side, :side].mean()) * window).abs().square()
    axis = torch.fft.fftfreq(side)
    return (axis[:, None].square() + axis.square()).sqrt(), spectrum


def in_band(picture: torch.Tensor, low: float, high: float) -> float:
    radius, spectrum = power(picture)
    return spectrum[(radius > low) & (radius <= high)].mean().item()


def test_a_spectrum_that_falls_as_one_over_f_becomes_level() -> None:
    noise = torch.fft.fft2(torch.randn(256, 256))
    axis = torch.fft.fftfreq(256)
    radius = (axis[:, None].square() + axis.square()).sqrt().clamp_min(1 / 256)
    picture = torch.fft.ifft2(noise / radius).real
    white = FourierWhitening(cutoff=1.0).whiten(picture)  # no corner of the spectrum is cut
    bands = [(0.03, 0.08), (0.08, 0.15), (0.15, 0.25), (0.25, 0.4)]
    before, after = ([in_band(image, *band) for band in bands] for image in (picture, white))
    assert max(before) / min(before) > 15
    assert max(after) / min(after) < 1.6


def test_natural_pictures() -> None:
    for image in shipped_images()[:4]:
        white = FourierWhitening().whiten(image.pixels)
        assert white.shape == image.pixels.shape
        assert abs(white.mean().item()) < 1e-5
        assert in_band(image.pixels, 0.02, 0.05) / in_band(image.pixels, 0.15, 0.25) > 3 * (
            in_band(white, 0.02, 0.05) / in_band(white, 0.15, 0.25)
        )
        assert in_band(white, 0.6, 0.71) < 0.05 * in_band(white, 0.15, 0.25)


def test_and_back() -> None:
    # What both have in common: neither the coarsest brightness, nor the corners of the spectrum.
    image = next(image for image in shipped_images() if image.name == "coffee")
    whitening = FourierWhitening()
    restored = whitening.unwhiten(whitening.whiten(image.pixels), mean=image.pixels.mean().item())
    centred, original = restored - restored.mean(), image.pixels - image.pixels.mean()
    cosine = (centred * original).sum() / (centred.norm() * original.norm())
    assert cosine > 0.97
    assert restored.mean().item() == pytest.approx(image.pixels.mean().item(), abs=1e-4)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan")])
def test_a_cutoff_that_is_none(cutoff) -> None:
    with pytest.raises(OptionError, match=r"cutoff must be positive, in cycles per pixel; got"):
        FourierWhitening(cutoff=cutoff)


class TestZCA:
    def patches(self) -> torch.Tensor:
        sampler = PatchSampler([image.pixels for image in shipped_images()[:6]], size=8)
        return sampler.sample(20000, seed=0, step=0)

    def test_the_covariance_becomes_the_identity(self) -> None:
        patches = self.patches()
        zca = ZCAWhitening.fit(patches, floor=1e-6)
        white = zca.whiten(patches)
        covariance = white.double().mT @ white.double() / len(white)
        # Without their mean, patches lie in a subspace of one dimension less.
        values = torch.linalg.eigvalsh(covariance)
        assert values[0] < 1e-3
        assert (values[1:] - 1).abs().max() < 0.02
        assert torch.equal(zca.matrix, zca.matrix.mT) or (zca.matrix - zca.matrix.mT).abs().max() < 1e-3

    def test_and_back(self) -> None:
        patches = self.patches()
        zca = ZCAWhitening.fit(patches)
        torch.testing.assert_close(zca.unwhiten(zca.whiten(patches)), patches, rtol=1e-3, atol=1e-3)

    def test_small_directions_are_not_blown_up(self) -> None:
        patches = torch.randn(1000, 3) * torch.tensor([1.0, 1.0, 1e-6])
        assert ZCAWhitening.fit(patches, floor=1e-4).whiten(patches)[:, 2].std() < 1e-3

    def test_patches_that_will_not_do(self) -> None:
        with pytest.raises(DataError, match=r"at least two patches; got 1"):
            ZCAWhitening.fit(torch.ones(1, 4))
        with pytest.raises(DataError, match=r"patches that are all equal"):
            ZCAWhitening.fit(torch.ones(5, 4))
