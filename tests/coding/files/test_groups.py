"""Dictionaries of any tool, read from files."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gramian.coding import AdditiveFactorAnalyzers, ManifoldSum
from gramian.coding.files import read_groups
from gramian.errors import LayoutError, WeightsError


def test_arrays_of_groups_and_of_directions(tmp_path) -> None:
    phi = torch.randn(8, 5, 3)
    np.save(tmp_path / "groups.npy", phi.permute(1, 2, 0).numpy())
    np.save(tmp_path / "swapped.npy", phi.permute(1, 2, 0).numpy().astype(">f4"))
    np.save(tmp_path / "directions.npy", phi[:, :, 0].T.numpy())
    save_file({"decoder": phi.permute(1, 2, 0).contiguous(), "bias": torch.ones(8)}, tmp_path / "one.safetensors")
    for name in ("groups.npy", "swapped.npy", "one.safetensors"):
        assert torch.equal(read_groups(tmp_path / name), phi)
    assert torch.equal(read_groups(tmp_path / "directions.npy"), phi[:, :, :1])
    layout = "m n l -> l (m n) ()"
    assert torch.equal(read_groups(tmp_path / "groups.npy", layout=layout), phi.flatten(1)[..., None])


def test_phi_is_phi_and_a_tensor_can_be_named(tmp_path) -> None:
    phi, other = torch.randn(8, 5, 3), torch.randn(4, 2, 8)
    path = tmp_path / "dictionary.safetensors"
    save_file({"phi": phi, "other": other}, path)
    assert torch.equal(read_groups(path), phi)
    assert torch.equal(read_groups(tmp_path), phi)
    assert torch.equal(read_groups(path, tensor="phi", layout="m n l -> l m n"), phi)
    assert torch.equal(read_groups(path, tensor="other"), other.permute(2, 0, 1))


def test_unused_directions_of_factor_analysers_are_zero(tmp_path) -> None:
    x = ManifoldSum(16, n_factors=4, active=2, noise=0.1).draw(2000, seed=0).x
    model = AdditiveFactorAnalyzers(6, 3, active=2, start_steps=100, anneal_steps=6).fit(x)
    model.save(tmp_path / "factors.safetensors")
    phi = read_groups(tmp_path / "factors.safetensors")
    used = (model.variances_ > 0)[: phi.shape[1]]
    assert (phi.norm(dim=0) > 0.9).numpy().tolist() == used.tolist()


def test_mistakes(tmp_path) -> None:
    save_file({"W_enc": torch.randn(4, 3), "W_dec": torch.randn(3, 4)}, tmp_path / "two.safetensors")
    save_file({"phi": torch.randn(4, 3)}, tmp_path / "flat.safetensors")
    np.save(tmp_path / "whole.npy", np.ones((2, 2, 2), dtype=int))
    np.save(tmp_path / "deep.npy", np.ones((2, 2, 2, 2)))
    np.save(tmp_path / "objects.npy", np.array([{}]))
    (tmp_path / "short.npy").write_bytes((tmp_path / "deep.npy").read_bytes()[:140])
    with pytest.raises(WeightsError, match=r"must have one tensor of two or three axes; got .*W_dec.*; try the name"):
        read_groups(tmp_path / "two.safetensors")
    with pytest.raises(WeightsError, match="must have the tensor 'W'; got"):
        read_groups(tmp_path / "two.safetensors", tensor="W")
    with pytest.raises(WeightsError, match=r"phi in .* must be real numbers Φ\[l, m, n\]; got torch.float32 \[4, 3\]"):
        read_groups(tmp_path / "flat.safetensors")
    with pytest.raises(WeightsError, match=r"must hold real floating-point numbers; got torch\.int64"):
        read_groups(tmp_path / "whole.npy")
    with pytest.raises(LayoutError, match=r"deep.npy: without a layout"):
        read_groups(tmp_path / "deep.npy")
    for name in ("objects.npy", "short.npy", "none.npy"):
        with pytest.raises(WeightsError, match=f"{name} must be an array of numbers; it cannot be read"):
            read_groups(tmp_path / name)
    with pytest.raises(WeightsError, match="must be an existing file"):
        read_groups(tmp_path / "none.safetensors")
