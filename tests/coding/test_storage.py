"""Dictionaries in files: whole, exact, and checked when read."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import gramian
from gramian.coding import Dictionary, load_dictionary, save_dictionary
from gramian.data import WHITENINGS, Preparation, shipped_images
from gramian.errors import RunError


def dictionary(**changed) -> Dictionary:
    preparation = Preparation(size=4, cutoff=0.4, scale=0.123456789)
    state = {"steps": torch.tensor(7), "idle": torch.zeros(5, dtype=torch.int64)}
    made = Dictionary(torch.randn(16, 5, 2), torch.randn(16, 5, 2), preparation, lam=1.7, state=state)
    return replace(made, **changed)


def test_there_and_back(tmp_path) -> None:
    path, stored = tmp_path / "dictionary.safetensors", dictionary()
    save_dictionary(path, stored)
    read = load_dictionary(path)
    assert torch.equal(read.phi, stored.phi)
    assert torch.equal(read.initial_phi, stored.initial_phi)
    assert (read.step, read.lam, read.prior, read.infer) == (7, 1.7, "group_laplace", "fista")
    assert read.preparation == stored.preparation
    assert set(read.state) == {"phi", "steps", "idle"}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("whiten", WHITENINGS)
def test_with_its_whitening_it_prepares_the_same_samples_elsewhere(tmp_path, whiten, colour) -> None:
    pictures = [image.pixels[:80, :90] for image in shipped_images(colour=colour)[:3]]
    preparation, _ = Preparation.fit(pictures, size=4, whiten=whiten)
    length = 48 if colour else 16
    stored = Dictionary(torch.randn(length, 5, 2), torch.randn(length, 5, 2), preparation, lam=2.0)
    save_dictionary(tmp_path / "d.safetensors", stored)
    read = load_dictionary(tmp_path / "d.safetensors").preparation
    here, there = (each.samples(pictures[2], stride=3) for each in (preparation, read))
    assert torch.equal(here.x, there.x)
    assert torch.equal(preparation.picture(here.x, here), read.picture(there.x, there))


def test_any_reader_of_safetensors_finds_the_layout(tmp_path) -> None:
    path, stored = tmp_path / "dictionary.safetensors", dictionary()
    save_dictionary(path, stored)
    with safe_open(path, framework="pt") as file:
        layout = gramian.Layout(file.metadata()["layout"])
        assert torch.equal(layout.to_phi(file.get_tensor("phi")), stored.phi)
        assert json.loads(file.metadata()["scale"]) == stored.preparation.scale


def test_files_that_will_not_do(tmp_path) -> None:
    path = tmp_path / "dictionary.safetensors"
    with pytest.raises(RunError, match=r"there must be a dictionary at .*; got no such file"):
        load_dictionary(path)
    save_dictionary(path, dictionary())
    whole = path.read_bytes()
    for cut in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(RunError, match="must be a whole dictionary file; it cannot be read"):
            load_dictionary(path)
    save_file({"phi": torch.ones(16, 5, 2)}, path)
    with pytest.raises(RunError, match="must be a dictionary of format 'gramian-dictionary-2'; got None; try"):
        load_dictionary(path)
    for damage in ({"size": '"seven"'}, {"scale": None}, {"lam": "{"}):
        tensors, metadata = parts(whole, tmp_path)
        save_file(tensors, path, {key: value for key, value in (metadata | damage).items() if value is not None})
        with pytest.raises(RunError, match="must be a whole dictionary file; it cannot be read"):
            load_dictionary(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"phi": torch.ones(15, 5, 2)}, r"phi\[l, m, n\] with l = 4² pixels × 1 channels, .* got \[15, 5, 2\]"),
        ({"initial_phi": torch.ones(16, 5, 3)}, r"initial_phi of the same shape; got .* \[16, 5, 3\]"),
        ({"phi": torch.full((16, 5, 2), torch.nan)}, "must hold finite atoms"),
        ({"lam": -1.0}, "a positive λ"),
        ({"prior": "gauss"}, "must name one of 'group_laplace'.*; got 'gauss'"),
        ({"infer": "magic"}, "cannot be used here: infer must be one of"),
        ({"preparation": Preparation(size=4, whiten="pca")}, "must name one of 'fourier'.*; got 'pca'"),
        ({"preparation": Preparation(size=4, whiten="zca")}, "must hold the whitening of its samples, of 16 numbers"),
    ],
)
def test_dictionaries_that_do_not_hang_together(tmp_path, changed, message, unchecked) -> None:
    save_dictionary(tmp_path / "d.safetensors", dictionary(**changed))
    with pytest.raises(RunError, match=message):
        load_dictionary(tmp_path / "d.safetensors")


def parts(content: bytes, folder) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a file's bytes."""
    path = folder / "parts"
    path.write_bytes(content)
    with safe_open(path, framework="pt") as file:
        found = {key: file.get_tensor(key) for key in ("phi", "initial_phi")}, dict(file.metadata())
    path.unlink()
    return found


def test_what_stood_there_outlives_a_failure(tmp_path) -> None:
    path = tmp_path / "dictionary.safetensors"
    save_dictionary(path, dictionary())
    before = path.read_bytes()
    with pytest.raises(RunError, match="could not be written"):
        save_dictionary(tmp_path / "no such folder" / "dictionary.safetensors", dictionary())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
