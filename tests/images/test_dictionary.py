"""Dictionaries in files: whole, exact, and checked when read."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import gramian
from gramian.errors import RunError
from gramian.images import Dictionary, load_dictionary, save_dictionary
from gramian.images.samples import WHITENINGS, Preparation, ZCAWhitening, shipped_images


def dictionary(**changed) -> Dictionary:
    preparation = Preparation(size=4, cutoff=0.4, scale=0.123456789)
    state = {"steps": torch.tensor(7), "idle": torch.zeros(5, dtype=torch.int64)}
    default = Dictionary(torch.randn(16, 5, 2), torch.randn(16, 5, 2), preparation, lam=1.7, state=state)
    return replace(default, **changed)


def test_there_and_back(tmp_path) -> None:
    path, stored = tmp_path / "dictionary.safetensors", dictionary()
    save_dictionary(path, stored)
    read = load_dictionary(path)
    assert torch.equal(read.phi, stored.phi)
    assert torch.equal(read.initial_phi, stored.initial_phi)
    assert (read.step, read.lam, read.prior, read.infer) == (7, 1.7, "group_laplace", "auto")
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
    with pytest.raises(RunError, match=r"there must be a dictionary file at .*; got no such file"):
        load_dictionary(path)
    save_dictionary(path, dictionary())
    whole = path.read_bytes()
    for cut in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(RunError, match="must be a whole dictionary file; it cannot be read"):
            load_dictionary(path)
    save_file({"phi": torch.ones(16, 5, 2)}, path)
    with pytest.raises(RunError, match="must be a dictionary file of format 'gramian-dictionary-2'; got None; try"):
        load_dictionary(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(RunError, match="must be a whole dictionary file; it cannot be read: Is a directory"):
        load_dictionary(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"size": '"seven"'}, "the size in .* must be a positive whole number; got 'seven'"),
        ({"size": "true"}, "the size in .* must be a positive whole number; got True"),
        ({"size": "4.0"}, "the size in .* must be a positive whole number; got 4.0"),
        ({"channels": "0"}, "the channels in .* must be a positive whole number; got 0"),
        ({"scale": None}, "with the metadata channels, .*; got other names and no checksum"),
        ({"magic": "1"}, "with the metadata channels, .*; got other names and no checksum"),
        ({"lam": "{"}, "the lam in .* must be JSON; it cannot be read"),
        ({"lam": "[" * 100_000}, "the lam in .* must be JSON; it cannot be read"),
        ({"lam": "1" * 5000}, "the lam in .* must be JSON; it cannot be read"),
        ({"lam": "-1.0"}, "the lam in .* must be a positive finite number; got -1.0"),
        ({"lam": "NaN"}, "the lam in .* must be a positive finite number; got nan"),
        ({"scale": "Infinity"}, "the scale in .* must be a positive finite number; got inf"),
        ({"cutoff": "[0.4]"}, r"the cutoff in .* must be a positive finite number; got \[0.4\]"),
        ({"whiten": "[]"}, r"the whiten in .* must be one of 'fourier'.*; got \[\]"),
    ],
)
def test_metadata_that_will_not_do(tmp_path, metadata, message) -> None:
    path = tmp_path / "d.safetensors"
    save_dictionary(path, dictionary())
    tensors, stored = parts(path)
    save_file(tensors, path, {name: text for name, text in (stored | metadata).items() if text is not None})
    with pytest.raises(RunError, match=message):
        load_dictionary(path)


ZCA = ZCAWhitening(torch.zeros(16), torch.eye(16), torch.eye(16))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"phi": torch.ones(15, 5, 2)}, r"phi\[l, m, n\] with l = 16, the length of its samples; got \[15, 5, 2\]"),
        ({"initial_phi": torch.ones(16, 5, 3)}, r"initial_phi of shape \[16, 5, 2\], .*; got \[16, 5, 3\]"),
        ({"phi": torch.full((16, 5, 2), torch.nan)}, "phi in .* must be finite"),
        ({"initial_phi": torch.full((16, 5, 2), torch.inf)}, "initial_phi in .* must be finite"),
        ({"phi": torch.ones(16, 5, 2, dtype=torch.int64)}, "phi in .* must be real .*; got torch.int64"),
        ({"phi": torch.ones(16, 5, 2).to(torch.float8_e5m2)}, "phi in .* must be real .*; got torch.float8_e5m2"),
        ({"lam": -1.0}, "the lam in .* must be a positive finite number; got -1.0"),
        ({"prior": "gauss"}, "the prior in .* must be one of 'group_laplace'.*; got 'gauss'"),
        ({"infer": "magic"}, "the infer in .* must be one of 'auto', 'fista', 'lca', .*; got 'magic'"),
        ({"preparation": Preparation(size=4, whiten="pca")}, "the whiten in .* must be one of .*; got 'pca'"),
        ({"preparation": Preparation(size=4, whiten="zca")}, r"zca.mean of shape \[16\], .*; got none"),
        ({"preparation": Preparation(size=4, zca=ZCA)}, "a whitening of patches only if whiten is 'zca'"),
        (
            {"preparation": Preparation(size=2, channels=4, mixing=torch.eye(3))},
            r"mixing of shape \[4, 4\], .* got \[3",
        ),
        (
            {"preparation": Preparation(size=2, channels=4, mixing=torch.ones(4, 4))},
            "must be invertible; got a singular",
        ),
        ({"preparation": Preparation(size=4, mixing=torch.eye(1))}, "a mixing of channels only for colours"),
        ({"state": {"steps": torch.tensor(-1)}}, "state.steps in .* whole numbers, at least 0"),
        ({"state": {"steps": torch.tensor(1.0)}}, "state.steps in .* whole numbers, .* got torch.float32"),
        ({"state": {"idle": torch.zeros(4, dtype=torch.int64)}}, r"state.idle .* of shape \[5\]; got .* \[4\]"),
        ({"state": {"lam": torch.tensor(0.0)}}, "state.lam in .* must be a positive number; got 0"),
        ({"state": {"aa": torch.zeros(9, 9)}}, r"state.aa of shape \[10, 10\], .*; got \[9, 9\]"),
    ],
)
def test_dictionaries_that_do_not_hang_together(tmp_path, changed, message) -> None:
    save_dictionary(tmp_path / "d.safetensors", dictionary(**changed))
    with pytest.raises(RunError, match=message):
        load_dictionary(tmp_path / "d.safetensors")


def parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a file, as it was written before there were checksums."""
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata())  # noqa: SIM118
    del metadata["checksum"]
    return tensors, metadata


def test_files_of_earlier_versions_have_no_checksum(tmp_path) -> None:
    path, stored = tmp_path / "dictionary.safetensors", dictionary()
    save_dictionary(path, stored)
    tensors, metadata = parts(path)
    save_file(tensors, path, metadata)
    read = load_dictionary(path)
    assert torch.equal(read.phi, stored.phi)
    assert read.preparation == stored.preparation


def test_the_checksum_detects_small_changes(tmp_path) -> None:
    path, stored = tmp_path / "dictionary.safetensors", dictionary()
    save_dictionary(path, stored)
    whole = path.read_bytes()
    for old, new in ((b'"lam":"1.7"', b'"lam":"1.6"'), (b'"layout":"l m', b'"layout":"l n')):
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(RunError, match="must match its checksum; got a file that was changed or damaged"):
            load_dictionary(path)
    for place in (-1, -1000, -3):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="must match its checksum; got a file that was changed or damaged"):
            load_dictionary(path)
    path.write_bytes(whole.replace(b'"checksum"', b'"checksun"'))
    with pytest.raises(RunError, match="got other names and no checksum"):
        load_dictionary(path)


def test_a_folder_whose_name_is_not_utf8(tmp_path) -> None:
    folder = tmp_path / os.fsdecode(b"r\xff")
    folder.mkdir()
    stored = dictionary()
    save_dictionary(folder / "dictionary.safetensors", stored)
    assert torch.equal(load_dictionary(folder / "dictionary.safetensors").phi, stored.phi)


def test_a_failed_write_keeps_the_old_file(tmp_path) -> None:
    path = tmp_path / "dictionary.safetensors"
    save_dictionary(path, dictionary())
    before = path.read_bytes()
    with pytest.raises(RunError, match="could not be written"):
        save_dictionary(tmp_path / "no such folder" / "dictionary.safetensors", dictionary())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
