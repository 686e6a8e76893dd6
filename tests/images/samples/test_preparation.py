"""From pictures to samples and back, for every whitening, grey and in colours."""

import pytest
import torch

from gramian.errors import DataError, OptionError
from gramian.images.samples import WHITENINGS, FourierWhitening, Preparation, shipped_images

over_whitenings = pytest.mark.parametrize("whiten", WHITENINGS)
over_colours = pytest.mark.parametrize("colour", [False, True], ids=["grey", "colours"])


def pictures(colour: bool) -> list[torch.Tensor]:
    return [image.pixels[:150, :200] for image in shipped_images(colour=colour)][:4]


@over_whitenings
@over_colours
class TestPreparation:
    def test_samples_have_unit_variance_and_no_mean(self, whiten, colour) -> None:
        preparation, sampler = Preparation.fit(pictures(colour), size=8, whiten=whiten)
        x = sampler.sample(5000, seed=3, step=1)
        assert x.shape == (5000, 192 if colour else 64)
        assert x.square().mean().sqrt().item() == pytest.approx(1, abs=0.05)
        assert preparation.channels == (3 if colour else 1)
        by_channel = x.view(5000, -1, preparation.channels)
        if whiten != "zca":
            assert by_channel.mean(dim=1).abs().max() < 1e-4
        if whiten == "zca":
            covariance = x.mT @ x / len(x)
            values = torch.linalg.eigvalsh(covariance)
            assert values[-1] < 2.5  # the covariance of samples is near I, but for what the floor leaves out
        if whiten == "fourier" and colour:
            flat = by_channel.flatten(0, 1)
            correlation = torch.corrcoef(flat.mT)
            assert (correlation - torch.eye(3)).abs().max() < 0.15

    def test_there_and_back(self, whiten, colour) -> None:
        preparation, _ = Preparation.fit(pictures(colour), size=8, whiten=whiten)
        picture = pictures(colour)[1]
        samples = preparation.samples(picture, stride=5)
        torch.testing.assert_close(
            preparation.join(samples.x, samples), preparation.filtered(picture), rtol=0, atol=1e-4
        )
        restored = preparation.picture(samples.x, samples)
        assert restored.shape == picture.shape
        if whiten == "fourier":  # slow changes of brightness are lost
            a, b = (each - each.mean() for each in (restored, picture))
            assert (a * b).sum() / (a.norm() * b.norm()) > 0.8
        else:
            torch.testing.assert_close(restored, picture, rtol=0, atol=1e-4)

    def test_other_pictures_are_prepared_the_same_way(self, whiten, colour) -> None:
        preparation, sampler = Preparation.fit(pictures(colour), size=8, whiten=whiten)
        again = preparation.sampler(pictures(colour))
        torch.testing.assert_close(again.sample(50, seed=1, step=2), sampler.sample(50, seed=1, step=2))


def test_grey_samples_are_whitened_patches() -> None:
    picture = pictures(False)[0]
    preparation, sampler = Preparation.fit([picture], size=8)
    torch.testing.assert_close(preparation.filtered(picture), FourierWhitening().whiten(picture))
    samples = preparation.samples(picture, stride=8)
    assert samples.means.shape == (len(samples.x), 1)
    assert samples.shape == (150, 200)
    assert sampler.scale == preparation.scale


def test_mistakes() -> None:
    with pytest.raises(OptionError, match="whiten must be one of 'fourier', 'zca', 'none'; got 'pca'"):
        Preparation.fit(pictures(False), size=8, whiten="pca")
    with pytest.raises(DataError, match=r"all be grey or all have as many channels; got \[1, 3\]"):
        Preparation.fit([*pictures(False), *pictures(True)], size=8)
    preparation, _ = Preparation.fit(pictures(False), size=8)
    with pytest.raises(DataError, match="pictures must have 1 channels, as those learned from; got 3"):
        preparation.samples(pictures(True)[0], stride=4)
