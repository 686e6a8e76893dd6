"""The whole record."""

import math

import pytest
import torch

from gramian.activations.evaluation import feature_record
from gramian.coding import ManifoldSum, SparseCodes
from tests.activations.evaluation.conftest import codes_of


def test_numbers_against_loops(known) -> None:
    x, phi, dense, _ = known
    record = feature_record([x], phi, lambda _: SparseCodes.of(dense))
    active = dense.any(dim=2)
    residual = x - torch.einsum("lmn,bmn->bl", phi, dense)
    assert record.unexplained == pytest.approx(float(residual.square().sum() / x.square().sum()), rel=1e-4)
    assert record.active == pytest.approx(float(active.float().sum(dim=1).mean()))
    assert record.dead == pytest.approx(1 / 7)
    assert record.shape == (24, 7, 3)
    for i in range(7):
        strengths = dense[:, i][active[:, i]].norm(dim=1)
        assert record.frequency[i] == pytest.approx(len(strengths) / 200)
        if not len(strengths):
            assert record.strength[i] == record.largest[i] == record.histogram[i].sum() == 0
            continue
        assert record.strength[i] == pytest.approx(float(strengths.mean()), rel=1e-5)
        assert record.largest[i] == pytest.approx(float(strengths.max()))
        expected = torch.histc(strengths, bins=24, min=0, max=float(strengths.max()))
        assert (record.histogram[i] - expected).abs().sum() <= 2  # a value may lie on an edge
        assert record.histogram[i].sum() == len(strengths)
    torch.testing.assert_close(record.utilisation, record.dimension / 3)
    enough = [i for i in range(7) if active[:, i].sum() >= 3]
    assert record.mean_dimension == pytest.approx(float(record.dimension[enough].mean()))


def test_manifolds_have_their_dimensions() -> None:
    data = ManifoldSum(40, n_factors=14, active=2)
    samples = data.draw(4000, seed=1)
    rest = iter(samples.codes.split(512))
    record = feature_record(samples.x.split(512), data.phi.float(), lambda _: SparseCodes.of(next(rest)))
    for kind, dimension, round_ in zip(data.kinds, record.dimension.tolist(), record.circularity.tolist(), strict=True):
        expected = {"segment": 1.0, "circle": 2.0, "disk": 2.0, "sphere": 3.0}.get(kind)
        if expected is not None:
            assert dimension == pytest.approx(expected, abs=0.05)
        assert (round_ > 0.9) == (kind == "circle")
    assert "0.0% dead" in repr(record)


def test_all_features_dead() -> None:
    x = torch.randn(30, 6)
    nothing = SparseCodes(torch.zeros(30, 0, dtype=torch.int64), torch.zeros(30, 0, 2), 3)
    record = feature_record([x], torch.randn(6, 3, 2), lambda _: nothing)
    assert record.dead == 1
    assert record.unexplained == pytest.approx(1)
    assert math.isnan(record.mean_dimension)
    assert len(record.points.sample) == 0
    assert codes_of(torch.zeros(3, 2, 2)).counts.tolist() == [0, 0]
