"""Sparse codes hold the same numbers as dense ones."""

import numpy as np
import torch

from gramian.coding import SparseCodes


def dense_codes() -> torch.Tensor:
    codes = torch.randn(20, 7, 3)
    return codes * (torch.rand(20, 7, 1) < 0.4)


def test_there_and_back() -> None:
    dense = dense_codes()
    codes = SparseCodes.of(dense)
    torch.testing.assert_close(codes.dense(), dense)
    torch.testing.assert_close(codes.active_groups, (dense != 0).any(dim=2).sum(dim=1))
    torch.testing.assert_close(codes.amplitudes.sum(dim=1), dense.norm(dim=2).sum(dim=1))
    assert repr(codes).startswith("SparseCodes(samples=20, m=7, n=3, active=")


def test_compressed_rows() -> None:
    dense = dense_codes()
    matrix = SparseCodes.of(dense).csr()
    np.testing.assert_array_equal(matrix.toarray(), dense.flatten(1).numpy())
    assert matrix.nnz == int((dense != 0).any(dim=2).sum()) * 3
    assert matrix.has_sorted_indices
    matrix.check_format(full_check=True)


def test_unused_slots_are_trimmed_and_padded() -> None:
    dense = dense_codes()
    codes = SparseCodes.of(dense)
    padding = torch.zeros(20, 2, 3)
    wide = SparseCodes(torch.cat([torch.zeros(20, 2, dtype=torch.int64), codes.groups], dim=1),
                       torch.cat([padding, codes.values], dim=1), 7)  # fmt: skip
    assert wide.trimmed().groups.shape == codes.groups.shape
    torch.testing.assert_close(wide.trimmed().dense(), dense)
    joined = SparseCodes.join([wide.rows(slice(5)), codes.rows(slice(5, None))])
    torch.testing.assert_close(joined.dense(), dense)


def test_no_active_group_at_all() -> None:
    codes = SparseCodes.of(torch.zeros(3, 4, 2))
    assert codes.groups.shape == (3, 0)
    assert codes.csr().nnz == 0
    assert SparseCodes.of(torch.zeros(0, 4, 2)).dense().shape == (0, 4, 2)


def test_the_gradient_of_dense_codes() -> None:
    codes = SparseCodes.of(dense_codes())
    values = codes.values.clone().requires_grad_()
    codes._replace(values=values).dense().square().sum().backward()
    torch.testing.assert_close(values.grad, 2 * codes.values)
    assert not codes._replace(values=values).detach().values.requires_grad
