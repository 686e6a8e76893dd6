"""Codes are kept group by group, whatever the batches are."""

import pytest
import torch

from gramian.activations.evaluation import encode_samples
from gramian.coding import SparseCodes
from gramian.errors import DataError, ShapeError
from tests.activations.evaluation.conftest import codes_of


def test_entries_are_those_of_the_dense_codes(known) -> None:
    _, _, dense, codes = known
    entries = [(i, s) for i in range(dense.shape[1]) for s in range(len(dense)) if dense[s, i].any()]
    assert list(zip(codes.group.tolist(), codes.sample.tolist(), strict=True)) == entries
    torch.testing.assert_close(codes.values, torch.stack([dense[s, i] for i, s in entries]))
    assert codes.counts.tolist() == [(dense[:, i] != 0).any(dim=1).sum().item() for i in range(dense.shape[1])]
    assert codes.counts[-1] == 0
    torch.testing.assert_close(codes.strengths, codes.values.square().sum(dim=1).sqrt())


def test_error_power_and_covariance(known) -> None:
    x, phi, dense, codes = known
    residual = x.double() - torch.einsum("lmn,bmn->bl", phi.double(), dense.double())
    assert codes.error == pytest.approx(float(residual.square().sum()), rel=1e-5)
    assert codes.power == pytest.approx(float(x.square().sum()), rel=1e-5)
    torch.testing.assert_close(codes.covariance, torch.cov(x.double().T, correction=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_batches_do_not_matter(known, batch) -> None:
    again = codes_of(known.dense, known.phi, known.x, batch)
    for name in ("group", "sample", "values", "starts"):
        assert torch.equal(getattr(again, name), getattr(known.codes, name))


def test_slots_of_zeros_are_no_entries() -> None:
    codes = SparseCodes(torch.tensor([[1, 0]]), torch.tensor([[[2.0], [0.0]]]), 3)
    assert encode_samples([torch.ones(1, 4)], torch.zeros(4, 3, 1), lambda _: codes).group.tolist() == [1]


def test_errors() -> None:
    phi, x = torch.eye(4)[..., None], torch.ones(2, 4)
    with pytest.raises(DataError, match="there must be samples to encode"):
        encode_samples([], phi, lambda x: SparseCodes.of(x[..., None]))
    with pytest.raises(ShapeError, match=r"samples must be x\[batch, 4\].*got \[2, 3\]"):
        encode_samples([x[:, :3]], phi, lambda x: SparseCodes.of(x[..., None]))
    with pytest.raises(ShapeError, match=r"codes must be of .* \(2, 4, 1\); got \(2, 2, 2\)"):
        encode_samples([x], phi, lambda x: SparseCodes.of(x.view(2, 2, 2)))
    with pytest.raises(DataError, match="with finite codes"):
        encode_samples([x], phi, lambda x: SparseCodes.of(x[..., None])._replace(values=x[..., None] * torch.nan))
