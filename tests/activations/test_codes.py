"""Codes of activations in files: there and back, any rows, in bounded memory, and what is damaged."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gramian.activations import codes as module
from gramian.activations import decode_activations, encode_activations, open_activations, open_codes
from gramian.coding import BlockFeatures
from gramian.errors import DataError, RunError


def learned(x: torch.Tensor, **options) -> BlockFeatures:
    options = {"n_groups": 8, "group_size": 2, "active": 3, "steps": 10, "batch_size": 32, **options}
    return BlockFeatures(**options).fit(x)


@pytest.mark.parametrize("select", ["topk", "threshold"])
def test_there_and_back(tmp_path, monkeypatch, select) -> None:
    monkeypatch.setattr(module, "_PART", 64)
    x = torch.randn(300, 10) + 2
    features = learned(x, select=select)
    seen = []
    codes = encode_activations(features, open_activations(x), tmp_path / "c.safetensors", progress=seen.append)
    assert seen == [64, 128, 192, 256, 300]
    codes.verify()
    expected = features.encode(x)
    assert torch.equal(codes[:].dense(), expected.dense())
    rows = [299, 0, 64, 63, 5]
    assert torch.equal(codes[rows].dense(), expected.rows(rows).dense())
    assert codes[[]].dense().shape == (0, 8, 2)
    assert codes.active == pytest.approx(float(expected.active_groups.double().mean()))
    assert codes.unexplained == pytest.approx(1 - features.score(x), abs=1e-6)
    decode_activations(features, codes, tmp_path / "back.npy")
    back = np.load(tmp_path / "back.npy")
    np.testing.assert_allclose(back, features.inverse_transform(expected.dense().flatten(1)), rtol=1e-5, atol=1e-5)
    assert open_activations(tmp_path / "back.npy").length == 10
    assert {*load_file(tmp_path / "c.safetensors")} == {"ends", "groups", "values"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.npy", "c.safetensors"]


def test_inference_explains_more(tmp_path) -> None:
    x = torch.randn(100, 10)
    features = learned(x)
    one_pass, inferred = (
        encode_activations(features, open_activations(x), tmp_path / f"{infer}.safetensors", infer=infer)
        for infer in (False, True)
    )
    assert inferred.unexplained < one_pass.unexplained
    assert inferred.active == one_pass.active == 3


def test_without_active_groups(tmp_path) -> None:
    x = torch.randn(20, 10)
    features = learned(x, select="threshold")
    features.module_.select.threshold.fill_(1e9)
    codes = encode_activations(features, open_activations(x), tmp_path / "c.safetensors")
    assert (codes.active, codes[:].dense().abs().max()) == (0, 0)
    decode_activations(features, codes, tmp_path / "back.npy")
    np.testing.assert_allclose(np.load(tmp_path / "back.npy"), np.tile(features.mean_, (20, 1)), rtol=1e-6)


def test_what_does_not_fit(tmp_path) -> None:
    x = torch.randn(40, 10)
    features = learned(x)
    path = tmp_path / "c.safetensors"
    with pytest.raises(DataError, match=r"must have the length 10 of those .* got 9"):
        encode_activations(features, open_activations(x[:, :9]), path)
    with pytest.raises(RunError, match="could not be written: No such file or directory"):
        encode_activations(features, open_activations(x), tmp_path / "none" / "c.safetensors")
    codes = encode_activations(features, open_activations(x), path)
    with pytest.raises(RunError, match="must be decoded with the dictionary that encoded them"):
        decode_activations(learned(x, random_state=1), codes, tmp_path / "back.npy")
    with pytest.raises(IndexError, match="rows must be numbers from 0 to 39"):
        codes[[40]]
    content = bytearray(path.read_bytes())
    content[-5] ^= 255
    path.write_bytes(content)
    with pytest.raises(RunError, match="must match its checksum"):
        open_codes(path).verify()
    path.write_bytes(content[:-8])
    with pytest.raises(DataError, match="must be a whole file of safetensors"):
        open_codes(path)
    save_file({"x": x}, path)
    with pytest.raises(RunError, match="must hold codes of activations, of format 'gramian-activation-codes-1'"):
        open_codes(path)
    with pytest.raises(DataError, match="there must be a file at"):
        open_codes(tmp_path / "missing")
    assert not (tmp_path / "back.npy").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory in /proc")
def test_memory_is_bounded(tmp_path) -> None:
    """Encode and decode 400 MB, of which less than 150 MB may be in memory at once beside what was there."""
    path = tmp_path / "x.npy"
    x = np.lib.format.open_memmap(path, "w+", np.float32, (200_000, 512))
    for start in range(0, len(x), 10_000):
        x[start : start + 10_000] = np.random.default_rng(start).standard_normal((10_000, 512), dtype=np.float32)
    x.flush()
    features = learned(torch.from_numpy(x[:1000].copy()), n_groups=64, active=20)
    del x
    activations = open_activations(path)
    # Mapped files count for the resident memory, and not for the data: bound the latter.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    used = 1024 * int(status["VmData"].split()[0])
    resource.setrlimit(resource.RLIMIT_DATA, (used + 150_000_000, hard))
    try:
        codes = encode_activations(features, activations, tmp_path / "c.safetensors")
        codes.verify()
        decode_activations(features, codes, tmp_path / "back.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    assert codes.active == 20
