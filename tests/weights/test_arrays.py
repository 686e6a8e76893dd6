"""Files of one array: what is read, what stays when it is rewritten, and what is refused."""

import numpy as np
import pytest
import torch

from gramian.errors import WeightsError
from gramian.weights import inspect_file, open_weights, orthogonalize_file


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_there_and_back(dtype, order, tmp_path) -> None:
    values = np.asarray(torch.randn(4, 12, dtype=torch.float64).numpy(), dtype, order=order)
    np.save(tmp_path / "w.npy", values)
    weights = open_weights(tmp_path / "w.npy")
    assert repr(weights).endswith("npy: 1 tensors, 0 skipped)")
    np.testing.assert_array_equal(weights.read("w").numpy(), values)
    (result,), _ = orthogonalize_file(tmp_path / "w.npy", tmp_path / "out.npy")
    assert (result.name, result.shape, result.converged) == ("w", (12, 1, 4), True)
    rewritten = np.load(tmp_path / "out.npy")
    assert (rewritten.dtype, rewritten.flags.f_contiguous) == (values.dtype, order == "F")
    assert (tmp_path / "out.npy").stat().st_size == (tmp_path / "w.npy").stat().st_size
    (row,) = inspect_file(tmp_path / "out.npy").rows
    assert row.statistics.largest < (1e-2 if dtype == "<f2" else 1e-6)


def test_over_itself_only_with_force(tmp_path) -> None:
    path = tmp_path / "w.npy"
    np.save(path, np.ones((3, 5)) + np.eye(3, 5))
    before = path.read_bytes()
    with pytest.raises(WeightsError, match="--force"):
        orthogonalize_file(path, path)
    with pytest.raises(WeightsError, match=r"must end in \.npy"):
        orthogonalize_file(path, tmp_path / "out.npz")
    assert path.read_bytes() == before
    orthogonalize_file(path, path, force=True)
    np.testing.assert_allclose(np.load(path) @ np.load(path).T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("values", "cut", "message"),
    [
        (np.ones((4, 5)), 8, "must hold the 160 bytes of its shape"),
        (np.ones((4, 5)), 170, "cannot be read"),
        (np.array([{}], dtype=object), 0, "must be an array of numbers"),
        (np.array(["a", "b"]), 0, "must hold weights; got of dtype <U1"),
        (np.zeros(2, [("x", "f4")]), 0, "must hold weights; got of dtype"),
    ],
    ids=["cut", "no header", "objects", "text", "fields"],
)
def test_refused(values, cut, message, tmp_path) -> None:
    path = tmp_path / "w.npy"
    np.save(path, values)
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    with pytest.raises(WeightsError, match=message):
        open_weights(path)
