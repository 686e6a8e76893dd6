"""Samples are read from stores, files and arrays, and everything else is refused with one clear error."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gramian.activations import open_activations
from gramian.activations.store import reader
from gramian.activations.store.manifest import MANIFEST, read_manifest
from gramian.errors import DataError, OptionError, RunError

X = torch.randn(40, 6)


@pytest.mark.parametrize("kind", ["tensor", "array", "npy", "safetensors", "bfloat16", "double", "axes"])
def test_plain_arrays(tmp_path, kind) -> None:
    expected = X
    if kind == "tensor":
        source = X
    elif kind == "array":
        source = X.numpy()
    elif kind == "npy":
        source = tmp_path / "x.npy"
        np.save(source, X.numpy())
    elif kind == "axes":
        source = X.view(4, 10, 6)
    else:
        source = tmp_path / "x.safetensors"
        dtype = {"bfloat16": torch.bfloat16, "double": torch.float64}.get(kind, torch.float32)
        save_file({"x": X.to(dtype), "ids": torch.arange(40)}, source)
        expected = X.to(dtype).float()
    activations = open_activations(source)
    assert (len(activations), activations.length) == (40, 6)
    rows = torch.tensor([39, 0, 7, 7])
    assert torch.equal(activations[rows], expected[rows])
    assert torch.equal(activations[5:9], expected[5:9])
    torch.testing.assert_close(activations.statistics.mean, expected.double().mean(dim=0))
    assert activations.places([3])[0].document == 3
    assert activations[[]].shape == (0, 6)


def test_a_store_is_read_across_its_shards(captured, encoder, batches) -> None:
    path, manifest = captured()
    assert len(manifest.shards) > 2
    encoder.eval()
    hidden = [encoder.block(encoder.embedding(batch["input_ids"]))[0] for batch in batches]
    expected = torch.cat([x[batch["attention_mask"].bool()] for x, batch in zip(hidden, batches, strict=True)]).detach()
    activations = open_activations(path)
    assert torch.equal(activations[:], expected)
    rows = torch.randperm(len(expected))
    assert torch.equal(activations[rows], expected[rows])
    torch.testing.assert_close(activations.statistics.mean, expected.double().mean(dim=0))
    activations.verify()
    place = activations.places([len(expected) - 1])[0]
    last = batches[-1]["attention_mask"][-1]
    assert (place.document, place.position) == (19, int(last.sum()) - 1)


def test_few_files_are_mapped_at_once(captured, monkeypatch) -> None:
    path, manifest = captured()
    monkeypatch.setattr(reader, "_MAPPED", 2)
    activations = open_activations(path)
    assert torch.equal(activations[:], open_activations(path)[:])
    assert len(activations._mapped) == 2 < len(manifest.shards)


def test_a_copy_in_another_process_opens_the_files_again(captured) -> None:
    path, _ = captured()
    part = open_activations(path).part(3, 20)
    sent = pickle.dumps(part)
    assert len(sent) < 1000
    copy = pickle.loads(sent)
    assert torch.equal(copy[:], part[:])
    assert torch.equal(part[:], open_activations(path)[3:20])


def test_rows_and_parts_that_do_not_exist() -> None:
    activations = open_activations(X)
    for rows in ([40], [-1], [[1]]):
        with pytest.raises(IndexError, match="rows must be numbers from 0 to 39"):
            activations[rows]
    with pytest.raises(OptionError, match="a part must lie within the 40 samples; got 3 to 41"):
        activations.part(3, 41)


def test_sources_of_another_kind(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "c.npy", np.arange(6).reshape(2, 3))
    np.save(tmp_path / "d.npy", np.arange(6.0))
    np.savez(tmp_path / "e.npz", X.numpy())
    save_file({"x": torch.arange(4)}, tmp_path / "a.safetensors")
    save_file({"x": X, "y": X.clone()}, tmp_path / "b.safetensors")
    for name, words in {
        "a.txt": "must be the folder of a store, or a file .npy or .safetensors; got .*a.txt, a file of another kind",
        "missing": "got .*missing, nothing there",
        ".": "must be a store of activations; got no manifest.json there; try a folder that gramian capture wrote",
        "a.npy": "must be an array that can be read",
        "b.npy": "must be an array that can be read",
        "c.npy": r"must hold floating-point numbers of 2, 4 or 8 bytes.*got int64; try array.astype\('float32'\)",
        "d.npy": r"must have the shape \[samples, l\], both at least 1; got \[6\]",
        "a.safetensors": "one tensor of real numbers .* must be selected; got 0: none",
    }.items():
        with pytest.raises(DataError, match=words):
            open_activations(tmp_path / name)
    with pytest.raises(OptionError, match="must be selected; got 2: 'x', 'y'; try layer='x'"):
        open_activations(tmp_path / "b.safetensors")
    assert torch.equal(open_activations(tmp_path / "b.safetensors", layer="y")[:], X)
    with pytest.raises(DataError, match="must hold floating-point numbers; got torch"):
        open_activations(torch.ones(3, 2, dtype=torch.int64))


def test_numbers_that_are_not_finite_have_no_statistics() -> None:
    x = X.clone()
    x[3, 2] = torch.inf
    with pytest.raises(DataError, match="all samples must be finite"):
        _ = open_activations(x).statistics


class TestDamage:
    def test_truncated(self, captured) -> None:
        path, manifest = captured()
        shard = path / manifest.shards[1].file
        shard.write_bytes(shard.read_bytes()[:-5])
        with pytest.raises(
            DataError, match=r"00001.safetensors must be one of the \d shards of its store, of \d+ bytes"
        ):
            open_activations(path)

    def test_missing(self, captured) -> None:
        path, manifest = captured()
        (path / manifest.shards[0].file).unlink()
        with pytest.raises(DataError, match="got no such file; try a backup copy, or capture again"):
            open_activations(path)

    def test_foreign(self, captured) -> None:
        path, manifest = captured()
        shard = path / manifest.shards[0].file
        shard.write_bytes(bytes(len(shard.read_bytes())))
        with pytest.raises(DataError, match="must be a whole file of safetensors"):
            open_activations(path)

    def test_of_another_store(self, captured, batches) -> None:
        path, _ = captured()
        for batch in batches:
            batch["input_ids"] += 1 - 2 * (batch["input_ids"] > 20).long()
        other, manifest = captured("other")
        shutil.copy(other / manifest.shards[0].file, path)
        with pytest.raises(DataError, match=r"as manifest\.json says; got a file of another store"):
            open_activations(path)

    def test_a_changed_number(self, captured) -> None:
        path, manifest = captured()
        shard = path / manifest.shards[0].file
        content = bytearray(shard.read_bytes())
        content[-200] ^= 1
        shard.write_bytes(content)
        with pytest.raises(RunError, match=r"00000\.safetensors must match its checksum"):
            open_activations(path).verify()

    @pytest.mark.parametrize("change", ["samples", "file", "mean", "format", "dtype"])
    def test_a_changed_manifest(self, captured, change, monkeypatch) -> None:
        path, _ = captured()
        content = json.loads((path / MANIFEST).read_text())
        if change == "samples":
            content["shards"][0]["samples"] += 1
        elif change == "file":
            content["shards"][0]["file"] = "../x.safetensors"
        elif change == "mean":
            content["layers"]["block"]["mean"].pop()
        else:
            content[change] = "another"
        (path / MANIFEST).write_text(json.dumps(content))
        words = "of format 'gramian-activations-1'; got 'another'" if change == "format" else "must match its checksum"
        with pytest.raises(DataError, match=words):
            read_manifest(path)
        if change in ("file", "mean", "dtype"):
            monkeypatch.setattr("gramian.activations.store.manifest._checksum", lambda content: content["checksum"])
            with pytest.raises(DataError, match="must be a whole manifest; got"):
                read_manifest(path)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"[" * 100_000, b"\xff\xfe"])
    def test_no_manifest(self, tmp_path, content) -> None:
        (tmp_path / MANIFEST).write_bytes(content)
        with pytest.raises(DataError, match=r"manifest\.json must be the manifest of a store") as error:
            open_activations(tmp_path)
        assert "\n" not in str(error.value)
