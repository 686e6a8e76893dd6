"""`gramian encode` and `gramian decode`: pictures to codes and back, in files."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gramian.coding.inference import fista
from gramian.images import Dictionary, load_codes, save_dictionary
from gramian.images.samples import Preparation, shipped_images

SIZE = 8


def pictures(*, colour: bool) -> list[torch.Tensor]:
    return [image.pixels[:60, :70] for image in shipped_images(colour=colour)[:4]]


def saved_dictionary(folder: Path, *, whiten: str = "none", colour: bool = False, **changed) -> Path:
    """A complete orthonormal basis of patches, which codes anything with little loss at a small λ."""
    preparation, _ = Preparation.fit(pictures(colour=colour), size=SIZE, whiten=whiten)
    length = SIZE**2 * preparation.channels
    phi = torch.linalg.qr(torch.randn(length, length)).Q.unflatten(1, (-1, 4)).contiguous()
    path = folder / "dictionary.safetensors"
    save_dictionary(path, Dictionary(phi, phi, preparation, **{"lam": 0.01, **changed}))
    return path


def save_pictures(folder: Path, *, colour: bool = False) -> Path:
    folder.mkdir()
    for number, pixels in enumerate(pictures(colour=colour)[:2]):
        Image.fromarray((255 * pixels).round().byte().numpy()).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("whiten", "colour"),
    [
        pytest.param("none", False, id="none-grey", marks=pytest.mark.slow),
        pytest.param("none", True, id="none-colours", marks=pytest.mark.slow),
        pytest.param("zca", False, id="zca-grey"),
        pytest.param("zca", True, id="zca-colours", marks=pytest.mark.slow),
    ],
)
def test_there_and_back(command, tmp_path, whiten, colour) -> None:
    dictionary = saved_dictionary(tmp_path, whiten=whiten, colour=colour)
    save_pictures(tmp_path / "pictures", colour=colour)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    done = command("encode", dictionary, "pictures", "-o", "codes", "--tol", "1e-6")
    assert (done.code, done.err) == (0, "")
    assert "skipped, not readable: broken.png" in done.out
    assert re.search(
        r"codes/0\.png\.codes\.safetensors: \d+ patches, [\d.]+ of \d+ groups active, gap at most", done.out
    )
    assert {entry.name for entry in (tmp_path / "codes").iterdir()} == {f"{n}.png.codes.safetensors" for n in (0, 1)}
    done = command("decode", dictionary, "codes", "-o", "back")
    assert (done.code, done.out.split()) == (0, ["back/0.png", "back/1.png"])
    for name in ("0.png", "1.png"):
        before, after = (np.asarray(Image.open(tmp_path / folder / name), float) for folder in ("pictures", "back"))
        assert before.shape == after.shape
        assert np.abs(before - after).mean() < 2.5  # of 255


def test_codes_are_those_of_the_model(command, tmp_path) -> None:
    dictionary = saved_dictionary(tmp_path, lam=0.5)
    folder = save_pictures(tmp_path / "pictures")
    assert command("encode", dictionary, folder / "0.png", "-o", "codes", "--stride", "8", "--tol", "1e-7").code == 0
    encoded = load_codes(tmp_path / "codes" / "0.png.codes.safetensors")
    assert encoded.samples.stride == 8
    assert encoded.gap < 5e-5  # the rounding of float32 is part of it
    preparation, _ = Preparation.fit(pictures(colour=False), size=SIZE, whiten="none")
    pixels = torch.from_numpy(np.asarray(Image.open(folder / "0.png"), np.float32) / 255)
    x = preparation.samples(pixels, stride=8).x
    phi = load_file(dictionary)["phi"]
    torch.testing.assert_close(encoded.codes, fista(x, phi, lam=0.5, tol=1e-7, max_iter=2000).codes, rtol=0, atol=1e-3)


@pytest.mark.parametrize("prior", ["nonnegative", "scale_mixture"])
def test_every_prior(command, tmp_path, prior) -> None:
    dictionary = saved_dictionary(tmp_path, lam=0.3, prior=prior, infer="lca")
    save_pictures(tmp_path / "pictures")
    done = command("encode", dictionary, "pictures", "-o", "codes")
    assert done.code == 0
    encoded = load_codes(tmp_path / "codes" / "0.png.codes.safetensors")
    assert encoded.gap < 2e-4
    assert (encoded.codes >= 0).all() or prior != "nonnegative"


def test_pictures_that_differ_in_their_suffix_keep_apart(command, tmp_path) -> None:
    dictionary = saved_dictionary(tmp_path)
    folder = save_pictures(tmp_path / "pictures")
    Image.open(folder / "1.png").save(folder / "0.jpg")
    assert command("encode", dictionary, "pictures", "-o", "codes").code == 0
    assert command("decode", dictionary, "codes", "-o", "back").code == 0
    assert {entry.name for entry in (tmp_path / "back").iterdir()} == {"0.png", "0.jpg.png", "1.png"}
    done = command("decode", dictionary, *2 * ["codes/0.png.codes.safetensors"], "-o", "twice")
    assert (done.code, done.out) == (2, "")
    assert "file names in twice must be unique; got 0.png more than once" in done.err
    assert not (tmp_path / "twice").exists()


def test_files_are_not_replaced_without_force(command, tmp_path) -> None:
    dictionary = saved_dictionary(tmp_path)
    save_pictures(tmp_path / "pictures")
    assert command("encode", dictionary, "pictures", "-o", "codes").code == 0
    assert command("decode", dictionary, "codes", "-o", "back").code == 0

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    for again in (
        ("encode", dictionary, "pictures", "-o", "codes", "--stride", "8"),
        ("decode", dictionary, "codes", "-o", "back"),
    ):
        before = files()
        done = command(*again)
        assert (done.code, done.out) == (2, "")
        assert re.fullmatch(r"gramian: \S+ exists already; try another name, or --force to replace it\n", done.err)
        assert files() == before
        assert command(*again, "--force").code == 0


class TestBadInput:
    def codes(self, command, folder: Path) -> Path:
        save_pictures(folder / "pictures")
        assert command("encode", saved_dictionary(folder), "pictures/0.png", "-o", "codes").code == 0
        return folder / "codes" / "0.png.codes.safetensors"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere", "pictures", "-o", "new"], "there must be a dictionary file at nowhere; got no such file"),
            (["pictures/0.png", "pictures", "-o", "new"], "pictures/0.png must be a whole dictionary file"),
            (["dictionary.safetensors", "nowhere", "-o", "new"], "nowhere, which does not exist"),
            (["dictionary.safetensors", "pictures", "-o", "new", "--stride", "9"], "stride"),
            (
                ["dictionary.safetensors", "pictures", "-o", "new", "--stride", "-1"],
                "stride must be at least 1; got -1",
            ),
            (["dictionary.safetensors", "pictures", "-o", "new", "--stride", "0"], "stride must be at least 1; got 0"),
            (
                ["dictionary.safetensors", "pictures", "-o", "new", "--tol", "nan"],
                "tol must be positive and finite; got nan",
            ),
            (
                ["dictionary.safetensors", "pictures", "-o", "new", "--tol", "-1"],
                "tol must be positive and finite; got -1",
            ),
            (["dictionary.safetensors", "tiny.png", "-o", "new"], "8"),
            (["dictionary.safetensors", "pictures", "-o", "tiny.png"], "the folder tiny.png could not be created"),
        ],
    )
    def test_of_encode(self, command, tmp_path, arguments, message) -> None:
        saved_dictionary(tmp_path)
        save_pictures(tmp_path / "pictures")
        Image.new("L", (5, 5)).save(tmp_path / "tiny.png")
        done = command("encode", *arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("gramian: ")
        assert done.err.count("\n") == 1
        assert message in done.err
        assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".codes.safetensors")]
        assert not (tmp_path / "new").exists()

    def test_a_folder_in_the_place_of_a_code_file(self, command, tmp_path) -> None:
        saved_dictionary(tmp_path)
        save_pictures(tmp_path / "pictures")
        (tmp_path / "codes" / "1.png.codes.safetensors").mkdir(parents=True)
        done = command("encode", "dictionary.safetensors", "pictures", "-o", "codes", "--force")
        assert (done.code, done.out) == (2, "")
        assert "codes/1.png.codes.safetensors must be the name of a file; got a folder" in done.err
        assert len(list((tmp_path / "codes").iterdir())) == 1  # found before the first is written
        long = tmp_path / "pictures" / f"{'n' * 240}.png"
        long.write_bytes((tmp_path / "pictures" / "0.png").read_bytes())
        done = command("encode", "dictionary.safetensors", long, "-o", "a/b/c")
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert "must be the name of a file that can be written" in done.err
        assert not (tmp_path / "a").exists()

    def test_codes_are_not_written_over_what_is_read(self, command, tmp_path) -> None:
        saved_dictionary(tmp_path)
        folder = save_pictures(tmp_path / "pictures")
        assert command("encode", "dictionary.safetensors", folder / "0.png", "-o", "codes").code == 0
        (tmp_path / "codes" / "1.png.codes.safetensors").symlink_to(tmp_path / "dictionary.safetensors")
        before = (tmp_path / "dictionary.safetensors").read_bytes()
        done = command("encode", "dictionary.safetensors", folder / "1.png", "-o", "codes", "--force")
        assert (done.code, "must not be a file that is read" in done.err) == (2, True)
        assert (tmp_path / "dictionary.safetensors").read_bytes() == before

    def test_of_another_dictionary(self, command, tmp_path) -> None:
        codes = self.codes(command, tmp_path)
        (tmp_path / "other").mkdir()
        other = saved_dictionary(tmp_path / "other")
        done = command("decode", other, codes, "-o", "back")
        assert (done.code, done.out) == (2, "")
        assert "must be decoded with the dictionary that encoded them" in done.err
        assert not (tmp_path / "back").exists()
        done = command("decode", other, "pictures", "-o", "back")
        assert (done.code, "there must be codes to decode" in done.err) == (2, True)

    def test_half_a_file_or_a_hostile_one(self, command, tmp_path) -> None:
        codes = self.codes(command, tmp_path)
        # Copies: some versions of safetensors return tensors that are mapped from the file, which is truncated below.
        whole, tensors = codes.read_bytes(), {name: each.clone() for name, each in load_file(codes).items()}
        with safe_open(codes, framework="pt") as file:
            metadata = file.metadata()
        for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
            codes.write_bytes(whole[:length])
            assert command("decode", "dictionary.safetensors", codes, "-o", "back").code == 2
        for changed in (
            {"shape": "[6000000, 70]"}, {"shape": "[-60, 70]"}, {"shape": "7"}, {"stride": "0"}, {"stride": '"x"'},
            {"stride": "3"}, {"shape": "[60, 70, 3]"}, {"gap": "null"}, {"format": "other"},
        ):  # fmt: skip
            save_file(tensors, codes, {**metadata, **changed})
            done = command("decode", "dictionary.safetensors", codes, "-o", "back")
            assert (done.code, done.out) == (2, ""), changed
        for changed in ({"means": tensors["means"][:3]}, {"codes": tensors["codes"][:, :2]}, {"mean": torch.zeros(4)}):
            save_file({**tensors, **{name: each.contiguous() for name, each in changed.items()}}, codes, metadata)
            assert command("decode", "dictionary.safetensors", codes, "-o", "back").code == 2, changed
        assert not (tmp_path / "back").exists()
