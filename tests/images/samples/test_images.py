"""Pictures: those shipped, those of a folder, and the ones set aside."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gramian.errors import DataError
from gramian.images.samples import HELD_OUT_NAMES, Picture, load_images, shipped_images, split_held_out


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
        pixels = {image.name: image.pixels for image in load_images(tmp_path).images}[f"{name}.png"]
        torch.testing.assert_close(pixels, torch.full((4, 4), expected), rtol=0, atol=1e-6)


def test_every_kind_of_file_gives_the_same_grey_values(tmp_path) -> None:
    grey = gradient()
    Image.fromarray(grey).save(tmp_path / "a grey.png")
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "b colour.tif")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "c deep.png")
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    Image.fromarray(opaque).save(tmp_path / "d opaque.webp", lossless=True)
    Image.fromarray(grey).convert("P").save(tmp_path / "e palette.gif")
    images = load_images(tmp_path).images
    assert len(images) == 5
    for image in images:
        torch.testing.assert_close(image.pixels, torch.from_numpy(grey / 255).float(), rtol=0, atol=2e-3)


def test_transparent_pixels_lie_on_white(tmp_path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    torch.testing.assert_close(load_images(tmp_path).images[0].pixels, torch.ones(4, 4))


def test_a_turn_that_the_camera_noted(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient(8, 16)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_images(tmp_path).images[0].pixels.shape == (16, 8)


def test_unreadable_files_are_listed_as_skipped(tmp_path) -> None:
    Image.fromarray(gradient()).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "cut.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    folder = load_images(tmp_path)
    assert [image.name for image in folder.images] == ["good.png"]
    assert folder.skipped == ("bad.png", "cut.jpg")


def test_folders_that_will_not_do(tmp_path) -> None:
    with pytest.raises(
        DataError, match=r"images must be an existing folder or file; got .*nowhere, which does not exist"
    ):
        load_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"must hold at least one readable picture .*; got no file with such a suffix"):
        load_images(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"got 1 that cannot be read"):
        load_images(tmp_path)


class TestSplit:
    def test_the_shipped_pictures(self) -> None:
        split = split_held_out(shipped_images(), min_side=32)
        assert {image.name for image in split.held_out} == set(HELD_OUT_NAMES)
        assert not {image.name for image in split.train} & set(HELD_OUT_NAMES)

    @pytest.mark.parametrize(("count", "expected"), [(2, 1), (4, 1), (5, 1), (10, 2), (23, 4)])
    def test_every_fifth_of_others(self, count, expected) -> None:
        images = tuple(Picture(f"{index}", torch.rand(20, 20)) for index in range(count))
        split = split_held_out(images, min_side=16)
        assert len(split.held_out) == expected
        assert sorted([*split.train, *split.held_out], key=lambda image: int(image.name)) == list(images)

    def test_a_single_picture_is_cut(self) -> None:
        whole = Picture("whole", torch.rand(100, 30))
        split = split_held_out((whole,), min_side=16)
        assert torch.equal(torch.cat([split.train[0].pixels, split.held_out[0].pixels]), whole.pixels)
        assert split.held_out[0].pixels.shape[0] == 20

    @pytest.mark.parametrize("shape", [(15, 100), (100, 15)])
    def test_too_small(self, shape) -> None:
        images = (Picture("large", torch.rand(50, 50)), Picture("small", torch.rand(shape)))
        with pytest.raises(DataError, match=r"must measure at least 16 × 16 pixels; got .* for small"):
            split_held_out(images, min_side=16)

    def test_a_single_one_too_small_to_be_cut(self) -> None:
        with pytest.raises(DataError, match=r"is cut in two, and must be at least 32 pixels high; got 31 × 100"):
            split_held_out((Picture("small", torch.rand(31, 100)),), min_side=16)

    def test_none(self) -> None:
        with pytest.raises(DataError, match="at least one picture; got none"):
            split_held_out((), min_side=16)


class TestOtherSources:
    def film(self) -> np.ndarray:
        return np.stack([np.roll(gradient(), 3 * shift, axis=1) for shift in range(10)])

    @pytest.mark.parametrize("name", ["film.npy", "film.npz", "film.gif", "film.tif"])
    def test_a_film(self, tmp_path, name) -> None:
        film, path = self.film(), tmp_path / name
        if path.suffix == ".npy":
            np.save(path, film)
        elif path.suffix == ".npz":
            np.savez(path, first=film[:4], second=film[4:])
        else:
            first, *rest = [Image.fromarray(frame) for frame in film]
            first.save(path, save_all=True, append_images=rest)
        loaded = load_images(path)
        assert loaded.sequence
        assert len(loaded.images) == 10
        assert loaded.images[3].name == f"{name}[3]"
        for image, frame in zip(loaded.images, film, strict=True):
            torch.testing.assert_close(image.pixels, torch.from_numpy(frame / 255).float(), rtol=0, atol=2e-3)
        # Neighbouring frames are alike: the last are set aside, not some in between.
        split = split_held_out(loaded.images, min_side=8, sequence=True)
        assert [image.name for image in split.held_out] == [f"{name}[8]", f"{name}[9]"]
        assert len(split.train) == 8

    def test_colours_are_kept_if_asked_for(self, tmp_path) -> None:
        colours = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
        np.save(tmp_path / "c.npy", colours)
        Image.fromarray(colours[0]).save(tmp_path / "a.png")
        Image.fromarray(colours[0, :, :, 0]).save(tmp_path / "b.png")
        array, folder = (load_images(path, colour=True).images for path in (tmp_path / "c.npy", tmp_path))
        assert [image.pixels.shape for image in (*array, *folder)] == [(20, 30, 3)] * 5
        torch.testing.assert_close(array[0].pixels, torch.from_numpy(colours[0] / 255).float())
        torch.testing.assert_close(folder[0].pixels, array[0].pixels)
        torch.testing.assert_close(folder[1].pixels, array[0].pixels[:, :, :1].expand(-1, -1, 3))
        grey = load_images(tmp_path / "c.npy").images[0].pixels
        torch.testing.assert_close(grey, array[0].pixels @ torch.tensor([0.2125, 0.7154, 0.0721]))

    def test_one_picture_is_no_film(self, tmp_path) -> None:
        Image.fromarray(gradient()).save(tmp_path / "a.png")
        np.save(tmp_path / "b.npy", gradient() / 255)
        for name in ("a.png", "b.npy"):
            loaded = load_images(tmp_path / name)
            assert not loaded.sequence
            assert [image.name for image in loaded.images] == [name]

    def test_shipped_colours(self) -> None:
        images = shipped_images(colour=True)
        assert [image.name for image in images] == ["astronaut", "chelsea", "china", "coffee", "flower", "rocket"]
        assert all(image.pixels.shape[2] == 3 for image in images)
        assert [image.name for image in split_held_out(images, min_side=16).held_out] == ["flower"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.npy", np.zeros((2, 3, 4, 5)), r"must hold numbers .*; got float64 \[2, 3, 4, 5\]"),
            ("a.npy", np.zeros((0, 3, 4)), r"got float64 \[0, 3, 4\]"),
            ("a.npy", np.array(["a"]), "must hold numbers"),
            ("a.npy", np.full((4, 4), 200.0), r"numbers in \[0, 1\]; got float64 from 200 to 200; try \(x - x.min"),
            ("a.npy", np.full((4, 4), np.nan), "finite numbers"),
            ("a.npy", np.array([{}], dtype=object), "without pickled objects"),
            ("a.npy", b"no array", "must be an array that can be read"),
            ("a.npz", b"no archive", "must be an array that can be read"),
            ("a.png", b"no picture", "must be a picture that can be read"),
            ("a.mp4", b"a film", "ffmpeg -i FILM frames/%05d.png"),
        ],
    )
    def test_files_that_will_not_do(self, tmp_path, name, content, message) -> None:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content, allow_pickle=True)
        with pytest.raises(DataError, match=message):
            load_images(path)


def test_a_name_that_is_too_long_is_not_printed_whole() -> None:
    with pytest.raises(DataError, match=r"images must be readable; got aaa") as caught:
        load_images(Path("a" * 5000))
    assert len(str(caught.value)) < 1200
