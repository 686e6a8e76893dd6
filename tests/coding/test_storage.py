"""Dictionaries in files: whole, exact, and checked when read."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import gramian
from gramian.coding import Dictionary, load_dictionary, save_dictionary
from gramian.errors import RunError


def dictionary() -> Dictionary:
    return Dictionary(torch.randn(16, 5, 2), torch.randn(16, 5, 2), step=7, patch_size=4, cutoff=0.4, scale=0.123456789)


def test_there_and_back(tmp_path) -> None:
    path, stored = tmp_path / "dictionary.safetensors", dictionary()
    save_dictionary(path, stored)
    read = load_dictionary(path)
    assert torch.equal(read.phi, stored.phi)
    assert torch.equal(read.initial_phi, stored.initial_phi)
    assert (read.step, read.patch_size, read.cutoff, read.scale) == (7, 4, 0.4, 0.123456789)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_any_reader_of_safetensors_finds_the_layout(tmp_path) -> None:
    path, stored = tmp_path / "dictionary.safetensors", dictionary()
    save_dictionary(path, stored)
    with safe_open(path, framework="pt") as file:
        layout = gramian.Layout(file.metadata()["layout"])
        assert torch.equal(layout.to_phi(file.get_tensor("phi")), stored.phi)
        assert json.loads(file.metadata()["scale"]) == stored.scale


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
    with pytest.raises(RunError, match="must be a dictionary of format 'gramian-dictionary-1'; got None; try"):
        load_dictionary(path)
    for damage in ({"step": "seven"}, {"scale": None}):
        tensors, metadata = parts(whole, tmp_path)
        save_file(tensors, path, {key: value for key, value in (metadata | damage).items() if value is not None})
        with pytest.raises(RunError, match="must be a whole dictionary file; it cannot be read"):
            load_dictionary(path)
    save_dictionary(path, Dictionary(torch.ones(15, 5, 2), torch.ones(15, 5, 2), 7, 4, 0.4, 1.0))
    with pytest.raises(RunError, match=r"must hold phi\[l, m, n\] with l = 4² pixels; got \[15, 5, 2\]"):
        load_dictionary(path)


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
