"""Patches: sound statistics, repeatable draws, and pictures put together again."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.errors import DataError
from gramian.images.samples import PatchSampler, image_to_patches, patches_to_image


def test_a_draw_is_a_function_of_seed_and_step() -> None:
    pictures = [torch.randn(40, 50), torch.randn(30, 30)]
    first, again = (PatchSampler(pictures, size=8) for _ in range(2))
    drawn = first.sample(64, seed=3, step=7)
    first.sample(10, seed=3, step=8)
    assert torch.equal(drawn, again.sample(64, seed=3, step=7))
    assert not torch.equal(drawn, first.sample(64, seed=3, step=8))
    assert not torch.equal(drawn, first.sample(64, seed=4, step=7))


def test_mean_zero_and_unit_variance() -> None:
    pictures = [5 + 0.01 * torch.randn(100, 80), 7 + 0.01 * torch.randn(60, 60)]
    patches = PatchSampler(pictures, size=10).sample(5000, seed=0, step=0)
    assert patches.mean(dim=1).abs().max() < 1e-3  # of pictures whose mean is 500 units
    assert patches.square().mean().item() == pytest.approx(1, rel=0.02)


def test_patches_come_from_the_pictures_and_from_all_of_them() -> None:
    pictures = [torch.arange(0, 20 * 30).float().view(20, 30), 10000 + torch.arange(0, 25 * 15).float().view(25, 15)]
    sampler = PatchSampler(pictures, size=4, flat=0.0)
    raw = sampler.sample(20000, seed=0, step=0) * sampler.scale
    widths = {tuple((patch - patch[0]).round().int().tolist()) for patch in raw}
    expected = {
        tuple((patch - patch[0]).int().tolist()) for p in pictures for patch in image_to_patches(p, size=4, stride=1)
    }
    assert widths == expected  # the widths of both pictures, and nothing that runs over an edge


def test_every_place_is_drawn() -> None:
    picture = torch.randn(6, 7)
    sampler = PatchSampler([picture], size=3, flat=0.0)
    places = {tuple(patch.tolist()) for patch in sampler.sample(5000, seed=0, step=0)}
    assert len(places) == 4 * 5


def test_flat_places_are_left_out() -> None:
    picture = torch.randn(64, 64)
    picture[:, 32:] *= 1e-3
    sampler = PatchSampler([picture], size=8)
    assert 0.35 < sampler.flat_fraction < 0.5
    assert sampler.sample(2000, seed=0, step=0).square().mean(dim=1).min() > 0.05


def test_the_scale_of_others() -> None:
    picture = torch.randn(64, 64)
    sampler = PatchSampler([10 * picture], size=8, scale=10.0)
    assert sampler.scale == 10.0
    assert sampler.sample(2000, seed=0, step=0).square().mean().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(
    ("pictures", "size", "message"),
    [
        ([torch.randn(20, 20)], 1, r"a side of at least 2 pixels; got 1; try"),
        ([torch.randn(20, 20), torch.randn(20, 7)], 8, r"as large as a patch, 8 × 8; got \(20, 7\)"),
        ([], 8, r"at least one picture to draw patches from; got none"),
        ([torch.ones(20, 20)], 8, r"some patches must not be flat; got pictures of one grey value"),
    ],
)
def test_pictures_that_will_not_do(pictures, size, message) -> None:
    with pytest.raises(DataError, match=message):
        PatchSampler(pictures, size=size)


@given(st.integers(2, 9), st.integers(0, 20), st.integers(0, 20), st.data())
def test_there_and_back(size, more_rows, more_columns, data) -> None:
    stride = data.draw(st.integers(1, size))
    picture = torch.randn(size + more_rows, size + more_columns, dtype=torch.float64)
    patches = image_to_patches(picture, size=size, stride=stride)
    back = patches_to_image(patches, shape=tuple(picture.shape), size=size, stride=stride)
    torch.testing.assert_close(back, picture)


@pytest.mark.parametrize("stride", [0, 9, -1])
def test_a_stride_that_leaves_gaps(stride) -> None:
    with pytest.raises(DataError, match=r"stride must lie between 1 and the patch's side 8"):
        image_to_patches(torch.zeros(20, 20), size=8, stride=stride)


def test_a_picture_smaller_than_a_patch() -> None:
    with pytest.raises(DataError, match=r"at least as large as a patch of side 8; got a side of 7"):
        image_to_patches(torch.zeros(20, 7), size=8, stride=4)
