"""Weights in files: what is read, what is written, and that damaged and hostile files do no harm."""

import json
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import gramian
from gramian.errors import LayoutError, OptionError, WeightsError
from gramian.weights import inspect_file, open_weights, orthogonalize_file
from tests.weights.files import sharded, tensors, write

KINDS = ("safetensors", "sharded", "npz", "pt")
over_kinds = pytest.mark.parametrize("kind", KINDS)


def names_in(kind: str) -> dict[str, str]:
    return {name: f"model.{name}" if kind == "pt" else name for name in tensors()}


@over_kinds
def test_reading(kind, tmp_path) -> None:
    weights = open_weights(write(tmp_path, kind))
    held = tensors()
    assert {name: entry.shape for name, entry in weights.entries.items()} == {
        name: tuple(held[plain].shape) for plain, name in names_in(kind).items()
    }
    for plain, name in names_in(kind).items():
        assert torch.equal(weights.read(name), held[plain])


@over_kinds
def test_only_what_was_chosen_changes(kind, tmp_path) -> None:
    source = write(tmp_path, kind)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    target = tmp_path / ("out" if kind == "sharded" else f"out{source.suffix}")
    done, skipped = orthogonalize_file(source, target)
    left = {each.name: each.reason for each in skipped}
    assert {path: path.read_bytes() for path in before} == before
    names, held = names_in(kind), tensors()
    assert {each.name for each in done} == {names["a.weight"], names["conv"]}
    assert all(each.converged for each in done)
    assert "embedding" in left[names["embed.weight"]]
    found = open_weights(target)
    assert list(found.entries) == list(open_weights(source).entries)
    for plain, name in names.items():
        if name in left:
            assert torch.equal(found.read(name), held[plain])
    rows = found.read(names["a.weight"])
    torch.testing.assert_close(rows @ rows.T, torch.eye(4))
    filters = found.read(names["conv"]).flatten(1)
    torch.testing.assert_close(filters @ filters.T, torch.eye(6))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(path.name for path in before), target.name])


def test_safetensors_keep_every_other_byte(tmp_path) -> None:
    source, target = write(tmp_path, "safetensors"), tmp_path / "out.safetensors"
    orthogonalize_file(source, target, select="a.weight")
    old, new = source.read_bytes(), target.read_bytes()
    length = int.from_bytes(old[:8], "little")
    begin, end = (8 + length + each for each in json.loads(old[8 : 8 + length])["a.weight"]["data_offsets"])
    assert old[:begin] == new[:begin]
    assert old[end:] == new[end:]
    assert old[begin:end] != new[begin:end]


def test_excluded_tensors_stay(tmp_path) -> None:
    source, target = write(tmp_path, "safetensors"), tmp_path / "out.safetensors"
    done, skipped = orthogonalize_file(source, target, exclude="a.*")
    assert [each.name for each in done] == ["conv"]
    assert ("a.weight", "excluded") in [(each.name, each.reason) for each in skipped]
    assert torch.equal(load_file(target)["a.weight"], tensors()["a.weight"])
    assert [row.name for row in inspect_file(source, exclude="a.*").rows] == ["conv"]


def test_sharded_keep_their_index_and_other_shards(tmp_path) -> None:
    orthogonalize_file(sharded(tmp_path), tmp_path / "out", select="a.*")
    for name in ("model.safetensors.index.json", "model-2.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert open_weights(tmp_path / "out").kind == "sharded"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtypes_stay(dtype, tmp_path) -> None:
    save_file(tensors(dtype), tmp_path / "in.safetensors")
    done, _ = orthogonalize_file(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert all(each.converged for each in done)
    assert load_file(tmp_path / "out.safetensors")["conv"].dtype == dtype


def test_tied_tensors_of_a_pytorch_file_stay_tied(tmp_path) -> None:
    shared = torch.randn(4, 8)
    torch.save({"one": shared, "two": shared}, tmp_path / "in.pt")
    orthogonalize_file(tmp_path / "in.pt", tmp_path / "out.pt", select="one")
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert found["one"].data_ptr() == found["two"].data_ptr()


def test_a_whole_network_through_a_file(tmp_path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 10))
    torch.save(model.state_dict(), tmp_path / "in.pt")
    orthogonalize_file(tmp_path / "in.pt", tmp_path / "out.pt")
    model.load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True))
    assert all(row.statistics.largest < 1e-6 for row in gramian.inspect(model).rows)


class TestRefused:
    def test_what_exists_is_not_replaced_without_force(self, tmp_path) -> None:
        source = write(tmp_path, "npz")
        target = tmp_path / "out.npz"
        target.write_bytes(b"precious")
        for where in (target, source):
            with pytest.raises(WeightsError, match="--force"):
                orthogonalize_file(source, where)
        assert target.read_bytes() == b"precious"
        orthogonalize_file(source, target, force=True)
        assert "conv" in open_weights(target).entries
        orthogonalize_file(source, source, force=True)
        assert open_weights(source).read("count").tolist() == list(range(5))

    def test_missing(self, tmp_path) -> None:
        with pytest.raises(WeightsError, match="which does not exist"):
            open_weights(tmp_path / "no.safetensors")
        with pytest.raises(WeightsError, match="got 0 in"):
            open_weights(tmp_path)
        (tmp_path / "a.h5").touch()
        with pytest.raises(WeightsError, match=r"one of .safetensors, .safetensors.index.json, .npz"):
            open_weights(tmp_path / "a.h5")
        with pytest.raises(WeightsError, match=r"folder of .* must exist"):
            orthogonalize_file(write(tmp_path, "npz"), tmp_path / "nowhere" / "out.npz")

    def test_selecting(self, tmp_path) -> None:
        source = write(tmp_path, "safetensors")
        with pytest.raises(OptionError, match="every pattern in select must match"):
            orthogonalize_file(source, tmp_path / "out.safetensors", select="nothing")
        with pytest.raises(OptionError, match="every pattern in exclude must match"):
            orthogonalize_file(source, tmp_path / "out.safetensors", exclude="nothing")
        with pytest.raises(LayoutError, match="bias of shape"):
            orthogonalize_file(source, tmp_path / "out.safetensors", select="bias")
        with pytest.raises(
            OptionError, match=r"of a floating-point dtype to be orthogonalized; got count of dtype torch.int64"
        ):
            orthogonalize_file(source, tmp_path / "out.safetensors", select="count", layouts="a -> a () ()")
        assert not (tmp_path / "out.safetensors").exists()
        assert [path.name for path in tmp_path.iterdir()] == [source.name]

    def test_an_index_that_leads_elsewhere(self, tmp_path) -> None:
        index = sharded(tmp_path)
        placed = json.loads(index.read_text())
        for bad in ("../secret.safetensors", "/etc/passwd", "gone.safetensors", 3):
            placed["weight_map"]["conv"] = bad
            index.write_text(json.dumps(placed))
            with pytest.raises(WeightsError, match=r"index|must be a file beside it"):
                open_weights(index)
        placed["weight_map"]["conv"] = "model-1.safetensors"
        index.write_text(json.dumps(placed))
        with pytest.raises(WeightsError, match="which does not hold it"):
            open_weights(index)


class Exploit:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["GRAMIAN_TEST_FOLDER"]) / "owned"),)


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GRAMIAN_TEST_FOLDER", str(tmp_path))
    torch.save({"weight": Exploit()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"weight": Exploit()}))
    np.savez(tmp_path / "c.npz", weight=np.array([Exploit()], dtype=object))
    for name in ("a.pt", "b.pt", "c.npz"):
        with pytest.raises(WeightsError):
            open_weights(tmp_path / name)
    assert not (tmp_path / "owned").exists()


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # in three steps nothing converges
@over_kinds
def test_damaged_files(kind, tmp_path) -> None:
    """Cut off anywhere, and with bytes changed anywhere: a clear error or a whole result, and nothing beside it."""
    source = write(tmp_path, kind)
    victim = tmp_path / "model-1.safetensors" if kind == "sharded" else source
    content = victim.read_bytes()
    draw = random.Random(0)
    damaged = [content[: draw.randrange(len(content))] for _ in range(15)] + [b""]
    for _ in range(40):
        changed = bytearray(content)
        for _ in range(draw.choice((1, 8))):
            # Mostly where the structure is: at the beginning, and at the end of archives.
            at = draw.choice(
                (draw.randrange(min(300, len(changed))), draw.randrange(len(changed)), -draw.randrange(1, 300))
            )
            changed[at] = draw.randrange(256)
        damaged.append(bytes(changed))
    target = tmp_path / ("out" if kind == "sharded" else f"out{source.suffix}")
    refused = 0
    for each in damaged:
        victim.write_bytes(each)
        there = sorted(path.name for path in tmp_path.iterdir())
        try:
            orthogonalize_file(source, target, max_steps=3)
        except gramian.GramianError:
            refused += 1
            assert sorted(path.name for path in tmp_path.iterdir()) == there
        assert victim.read_bytes() == each
        if target.is_dir():
            for path in target.iterdir():
                path.unlink()
            target.rmdir()
        target.unlink(missing_ok=True)
    assert refused >= 16
