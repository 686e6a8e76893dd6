"""Pictures: those shipped, those of a folder, and the ones set aside."""

import numpy as np
import pytest
import torch
from PIL import Image

from gramian.data import HELD_OUT_NAMES, GrayImage, load_folder, shipped_images, split_held_out
from gramian.errors import DataError


def gradient(height: int = 40, width: int = 50) -> np.ndarray:
    return (np.arange(height)[:, None] * 2 + np.arange(width)[None, :]).astype(np.uint8)


def test_the_shipped_pictures() -> None:
    images = shipped_images()
    assert [image.name for image in images] == sorted(image.name for image in images)
    assert len(images) == 12
    for image in images:
        assert image.pixels.dtype == torch.float32
        assert image.pixels.min() >= 0
        assert image.pixels.max() <= 1
        assert min(image.pixels.shape) >= 300
        assert image.pixels.std() > 0.03


def test_colours_become_luminance(tmp_path) -> None:
    for name, colour, expected in (("r", (255, 0, 0), 0.2125), ("g", (0, 255, 0), 0.7154), ("b", (0, 0, 255), 0.0721)):
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{name}.png")
        pixels = {image.name: image.pixels for image in load_folder(tmp_path).images}[f"{name}.png"]
        torch.testing.assert_close(pixels, torch.full((4, 4), expected), rtol=0, atol=1e-6)


def test_every_kind_of_file_gives_the_same_grey_values(tmp_path) -> None:
    grey = gradient()
    Image.fromarray(grey).save(tmp_path / "a grey.png")
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "b colour.tif")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "c deep.png")
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    Image.fromarray(opaque).save(tmp_path / "d opaque.webp", lossless=True)
    Image.fromarray(grey).convert("P").save(tmp_path / "e palette.gif")
    images = load_folder(tmp_path).images
    assert len(images) == 5
    for image in images:
        torch.testing.assert_close(image.pixels, torch.from_numpy(grey / 255).float(), rtol=0, atol=2e-3)


def test_transparent_pixels_lie_on_white(tmp_path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    torch.testing.assert_close(load_folder(tmp_path).images[0].pixels, torch.ones(4, 4))


def test_a_turn_that_the_camera_noted(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient(8, 16)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_folder(tmp_path).images[0].pixels.shape == (16, 8)


def test_what_cannot_be_read_is_named(tmp_path) -> None:
    Image.fromarray(gradient()).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "cut.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    folder = load_folder(tmp_path)
    assert [image.name for image in folder.images] == ["good.png"]
    assert folder.skipped == ("bad.png", "cut.jpg")


def test_folders_that_will_not_do(tmp_path) -> None:
    with pytest.raises(DataError, match=r"images must be an existing folder; got .*nowhere, which does not exist"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"must hold at least one readable picture .*; got no file with such a suffix"):
        load_folder(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"got 1 that cannot be read"):
        load_folder(tmp_path)
    with pytest.raises(DataError, match=r"images must be a folder; got the file .*bad.png; try its folder"):
        load_folder(tmp_path / "bad.png")


class TestSplit:
    def test_the_shipped_pictures(self) -> None:
        split = split_held_out(shipped_images(), min_side=32)
        assert {image.name for image in split.held_out} == set(HELD_OUT_NAMES)
        assert not {image.name for image in split.train} & set(HELD_OUT_NAMES)

    @pytest.mark.parametrize(("count", "expected"), [(2, 1), (4, 1), (5, 1), (10, 2), (23, 4)])
    def test_every_fifth_of_others(self, count, expected) -> None:
        images = tuple(GrayImage(f"{index}", torch.rand(20, 20)) for index in range(count))
        split = split_held_out(images, min_side=16)
        assert len(split.held_out) == expected
        assert sorted([*split.train, *split.held_out], key=lambda image: int(image.name)) == list(images)

    def test_a_single_picture_is_cut(self) -> None:
        whole = GrayImage("whole", torch.rand(100, 30))
        split = split_held_out((whole,), min_side=16)
        assert torch.equal(torch.cat([split.train[0].pixels, split.held_out[0].pixels]), whole.pixels)
        assert split.held_out[0].pixels.shape[0] == 20

    @pytest.mark.parametrize("shape", [(15, 100), (100, 15)])
    def test_too_small(self, shape) -> None:
        images = (GrayImage("large", torch.rand(50, 50)), GrayImage("small", torch.rand(shape)))
        with pytest.raises(DataError, match=r"must measure at least 16 × 16 pixels; got .* for small"):
            split_held_out(images, min_side=16)

    def test_a_single_one_too_small_to_be_cut(self) -> None:
        with pytest.raises(DataError, match=r"is cut in two, and must be at least 32 pixels high; got 31 × 100"):
            split_held_out((GrayImage("small", torch.rand(31, 100)),), min_side=16)

    def test_none(self) -> None:
        with pytest.raises(DataError, match="at least one picture; got none"):
            split_held_out((), min_side=16)
