"""Hostile pictures and arrays: a `GramianError` that names the file, in one line, and no memory for promises."""

import io
import os
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from gramian import picture_files
from gramian.errors import DataError
from gramian.images.samples import PatchSampler, Preparation, load_images
from tests.faults import fuzz_images

YCBCR = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="Pillow below 13 cannot read the YCbCr TIFF that it writes"
)
GRADIENT = np.linspace(0, 255, 40 * 50).reshape(40, 50).astype(np.uint8)


def npy(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + version + size + header.encode("latin-1") + content


def shaped(shape: str, dtype: str = "<f4") -> str:
    return f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n"


def npz(member: bytes, name: str = "a.npy") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, member)
    return content.getvalue()


ARRAYS = {
    "a terabyte": npy(shaped("(1000000, 250000)")),
    "more than there is": npy(shaped("(4, 5)"), bytes(79)),
    "a size that overflows": npy(shaped("(9223372036854775807, 9223372036854775807)")),
    "a negative size": npy(shaped("(-4, 5)"), bytes(80)),
    "a size that is a bool": npy(shaped("(True, 5)"), bytes(80)),
    "no tuple": npy(shaped("7"), bytes(80)),
    "objects": npy(shaped("(2,)", "|O"), b"cos\nsystem\n(S'false'\ntR."),
    "text": npy(shaped("(2, 3)", "<U4"), bytes(96)),
    "complex numbers": npy(shaped("(2, 3)", "<c8"), bytes(48)),
    "named fields": npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3), }\n", bytes(24)),
    "nested deeply": npy("(" * 5000 + ")" * 5000),
    "a version of the future": npy(shaped("(4, 5)"), bytes(80), b"\x09\x00"),
    "a long header": npy(" " * 100_000 + shaped("(4, 5)"), bytes(80), b"\x02\x00"),
    "nothing": b"",
    "the beginning of it": b"\x93NUM",
    "an archive of a terabyte": npz(npy(shaped("(1000000, 250000)"))),
    "an archive of objects": npz(npy(shaped("(2,)", "|O"), b"cos\nsystem\n(S'false'\ntR.")),
    "an archive of something else": npz(b"no array"),
    "half an archive": npz(npy(shaped("(4, 5)"), bytes(80)))[:60],
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays(tmp_path, kind, suffix) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(ARRAYS[kind])
    with pytest.raises(DataError) as error:
        load_images(path)
    assert f"a{suffix}" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500 + len(str(path))


def test_bombs(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(npz(npy(shaped("(100, 100, 100)", "|u1"), bytes(1_000_000))))
    assert len(load_images(path).images) == 100
    monkeypatch.setattr(picture_files, "_LARGE", 1 << 18)
    with pytest.raises(
        DataError, match=r"a\.npz must hold arrays at most 200 times as large as the file; got a\.npy of"
    ):
        load_images(path)
    film = tmp_path / "a.gif"
    first, *rest = [Image.fromarray(np.roll(GRADIENT, k)) for k in range(5)]
    first.save(film, save_all=True, append_images=rest)
    monkeypatch.setattr(picture_files, "_MAX_PIXELS", 4 * GRADIENT.size)
    with pytest.raises(DataError, match=r"a\.gif must be a picture that can be read; got more than"):
        load_images(film)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 60_000, 60_000, 8, 0, 0, 0, 0)
    (tmp_path / "large.png").write_bytes(header + bytes(4))
    with pytest.raises(DataError, match=r"large\.png must be a picture that can be read; got"):
        load_images(tmp_path / "large.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".gif", ".bmp", ".webp"])
def test_pictures_cut_short(tmp_path, suffix) -> None:
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(np.stack(3 * [GRADIENT], axis=2)).save(whole)
    content = whole.read_bytes()
    (tmp_path / "cut").mkdir()
    path = tmp_path / "cut" / f"a{suffix}"
    for length in (0, 1, 8, 20, len(content) // 2):
        path.write_bytes(content[:length])
        for place in (path, path.parent):
            with pytest.raises(DataError, match="cut"):
                load_images(place)


def sixteen_bits(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array.astype(np.uint16))


class TestOneRuleForNumbers:
    """Bytes, 16 bits, or numbers in [0, 1]: of anything else nobody knows which is white."""

    def test_of_floats(self, tmp_path) -> None:
        numbers = (GRADIENT / 255).astype(np.float32)
        Image.fromarray(numbers).save(tmp_path / "a.tif")
        np.save(tmp_path / "a.npy", numbers)
        one, other = (load_images(tmp_path / name).images[0].pixels for name in ("a.tif", "a.npy"))
        assert torch.equal(one, other)
        torch.testing.assert_close(one, torch.from_numpy(numbers))
        for wrong, words in (
            (255 * numbers, r"got float32 from 0 to 255; try \(x - x\.min"),
            (numbers - 0.5, r"got float32 from -0\.5 to 0\.5; try"),
            (np.where(numbers > 0.5, np.nan, numbers).astype(np.float32), "some are not finite"),
        ):
            (tmp_path / "folder").mkdir(exist_ok=True)
            Image.fromarray(wrong).save(tmp_path / "folder" / "a.tif")
            np.save(tmp_path / "a.npy", wrong)
            for path in (tmp_path / "a.npy", tmp_path / "folder" / "a.tif", tmp_path / "folder"):
                with pytest.raises(DataError, match=r"a\.(npy|tif) must hold bytes, or finite numbers .*" + words):
                    load_images(path)

    def test_whole_numbers_have_8_or_16_bits(self, tmp_path) -> None:
        sixteen_bits(GRADIENT.astype(float) * 257).save(tmp_path / "a.png")
        Image.fromarray(GRADIENT.astype(np.int32) * 257).save(tmp_path / "a.tif")
        for name in ("a.png", "a.tif"):
            pixels = load_images(tmp_path / name).images[0].pixels
            torch.testing.assert_close(pixels, torch.from_numpy(GRADIENT / 255).float())
        Image.fromarray(GRADIENT.astype(np.int32) * 1000).save(tmp_path / "a.tif")
        with pytest.raises(DataError, match=r"a\.tif must hold 8 or 16 bits .* got whole numbers from 0 to 255000"):
            load_images(tmp_path / "a.tif")

    @pytest.mark.parametrize(
        "mode",
        ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", pytest.param("YCbCr", marks=YCBCR), "HSV", "I;16", "F"],
    )
    @pytest.mark.parametrize("colour", [False, True])
    def test_every_mode(self, tmp_path, mode, colour) -> None:
        picture = {
            "I;16": lambda: sixteen_bits(GRADIENT * 257.0),
            "F": lambda: Image.fromarray(GRADIENT / np.float32(255)),
        }
        made = picture.get(mode, lambda: Image.fromarray(GRADIENT).convert("RGB").convert(mode))()
        path = tmp_path / "a.tif"
        try:
            made.save(path)
        except OSError:
            path = tmp_path / "a.png"
            made.convert("RGB" if mode in ("YCbCr", "HSV") else mode).save(path)
        pixels = load_images(path, colour=colour).images[0].pixels
        assert pixels.shape == ((40, 50, 3) if colour else (40, 50))
        assert 0 <= pixels.min() < 0.1
        assert 0.9 < pixels.max() <= 1

    @pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("whiten", ["none", "zca", "fourier"])
    @pytest.mark.parametrize("colour", [False, True])
    def test_pictures_of_one_value(self, value, whiten, colour) -> None:
        plain = torch.full((40, 50, 3) if colour else (40, 50), value)
        with pytest.raises(DataError, match="some patches must not be flat; got pictures of one grey value"):
            Preparation.fit([plain, plain], size=8, whiten=whiten)
        with pytest.raises(DataError, match="some patches must not be flat; got pictures of one grey value"):
            PatchSampler([plain], size=8)
        good = torch.rand(40, 50, 3) if colour else torch.rand(40, 50)
        preparation, sampler = Preparation.fit([plain, good], size=8, whiten=whiten)
        assert sampler.sample(10, seed=0, step=0).isfinite().all()
        with pytest.raises(DataError, match="got pictures of one grey value"):
            preparation.sampler([plain])


class TestPlaces:
    def test_names_that_are_no_text(self, tmp_path) -> None:
        name = os.fsencode(tmp_path) + b"/caf\xe9\n[red].png"
        Image.fromarray(GRADIENT).save(tmp_path / "a.png")
        os.rename(tmp_path / "a.png", name)  # noqa: PTH104
        (image,) = load_images(tmp_path).images
        assert image.name == r"caf\udce9\n[red].png"
        (image,) = load_images(Path(os.fsdecode(name))).images
        assert image.name.encode("utf-8")
        with open(name, "wb"):  # noqa: PTH123
            pass
        with pytest.raises(DataError) as error:
            load_images(Path(os.fsdecode(name)))
        assert str(error.value).encode("utf-8").isascii() or "\n" not in str(error.value)
        assert r"caf\udce9\n[red].png" in str(error.value)

    @pytest.mark.parametrize("name", ["n" * 300 + ".png", "n" * 300, "a\0b.png", "loop.png"])
    def test_names_that_no_file_has(self, tmp_path, name) -> None:
        (tmp_path / "loop.png").symlink_to("loop.png")
        with pytest.raises(DataError, match="images must be"):
            load_images(tmp_path / name)

    def test_a_pipe_is_refused(self, tmp_path) -> None:
        os.mkfifo(tmp_path / "pipe.npy")
        with pytest.raises(DataError, match=r"pipe\.npy, which is not a file"):
            load_images(tmp_path / "pipe.npy")
        os.mkfifo(tmp_path / "pipe.png")
        Image.fromarray(GRADIENT).save(tmp_path / "a.png")
        assert len(load_images(tmp_path).images) == 1

    @pytest.mark.parametrize("closed", ["iterdir", "is_dir", "is_file"])
    def test_folders_that_are_closed(self, tmp_path, monkeypatch, closed) -> None:
        Image.fromarray(GRADIENT).save(tmp_path / "a.png")

        def refused(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, closed, refused)
        with pytest.raises(DataError, match=r"images must be readable; got .*: Permission denied"):
            load_images(tmp_path)

    @pytest.mark.parametrize("name", ["a.png", "a.npy"])
    def test_files_that_are_closed(self, tmp_path, monkeypatch, name) -> None:
        (tmp_path / name).write_bytes(b"x")

        def refused(path, *rest, **more) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refused)
        with pytest.raises(DataError, match=rf"{name} must be .*Permission denied"):
            load_images(tmp_path / name)


def test_mutated_files() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fuzz_images.run(seconds=1.5, seed=0) > 20


def test_the_fuzzer_reports_an_unexpected_error(monkeypatch) -> None:
    def careless(path, *, colour) -> None:
        raise KeyError("what a library says")

    monkeypatch.setattr(fuzz_images, "load_images", careless)
    with pytest.raises(fuzz_images.FoundError, match=r"seed 3, number 0: .*; again: .*--seed 3 --first 0"):
        fuzz_images.run(seconds=5.0, seed=3)
