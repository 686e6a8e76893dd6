"""The numbers of an inspection, beside singular values and plain loops."""

import math

import pytest
import torch
from torch import nn

import gramian
from gramian import inspection
from gramian.errors import DataError, OptionError
from gramian.inspection import statistics
from tests.cases import stiefel


@pytest.mark.parametrize("few", [1, 1 << 22])
@pytest.mark.parametrize("shape", [(9, 5, 3), (20, 1, 7), (6, 2, 1)], ids=str)
def test_beside_plain_loops(shape, few, monkeypatch) -> None:
    monkeypatch.setattr(inspection, "_NUMBERS", few)
    phi = torch.randn(shape)
    _, m, n = shape
    sums, largest, coherence, condition, ranks = 0.0, 0.0, 0.0, 1.0, 0.0
    for i in range(m):
        P = phi[:, i].double()
        X = P.T @ P - torch.eye(n)
        sums += float(X.abs().sum())
        largest = max(largest, float(X.abs().max()))
        for j in range(n):
            for k in range(j):
                coherence = max(coherence, abs(float(torch.cosine_similarity(P[:, j], P[:, k], dim=0))))
        values = torch.linalg.svdvals(P)
        condition = max(condition, float(values[0] / values[-1]))
        share = values / values.sum()
        ranks += math.exp(-float((share * share.log()).sum()))
    measured = statistics(phi)
    expected = (sums / (m * n * n), largest, coherence, condition, ranks / m)
    for one, two in zip(
        (measured.mean, measured.largest, measured.coherence, measured.condition, measured.effective_rank),
        expected,
        strict=True,
    ):
        assert one == pytest.approx(two, rel=1e-6, abs=1e-9)


def test_orthonormal_ones() -> None:
    measured = statistics(stiefel(12, 3, 4))
    assert measured.largest < 1e-12
    assert measured.condition == pytest.approx(1)
    assert measured.effective_rank == pytest.approx(4)


def test_without_full_rank() -> None:
    phi = torch.randn(8, 1, 3)
    phi[:, 0, 2] = phi[:, 0, 0]
    measured = statistics(phi)
    assert measured.condition == math.inf
    assert gramian.inspect({"w": torch.zeros(4, 2)}).as_dict()["parameters"][0]["statistics"]["condition"] is None
    assert measured.coherence == pytest.approx(1)
    assert measured.effective_rank < 2.01
    assert statistics(torch.zeros(4, 1, 2)).condition == math.inf


def test_not_a_number() -> None:
    phi = torch.randn(8, 2, 3)
    phi[0, 0, 0] = math.nan
    assert math.isnan(statistics(phi).largest)
    with pytest.raises(DataError, match="must have entries"):
        statistics(torch.zeros(0, 1, 2))


def test_a_model_and_its_tensors() -> None:
    model = nn.Sequential(nn.Linear(12, 4), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    inspection, plain = gramian.inspect(model), gramian.inspect(dict(model.named_parameters()))
    assert [row.statistics for row in inspection.rows] == [row.statistics for row in plain.rows]
    assert [row.groups for row in inspection.rows] == [(12, 1, 4), (27, 1, 5)]
    assert "a scale of BatchNorm2d" in [each.reason for each in inspection.skipped if each.name == "2.weight"]
    lines = str(inspection).splitlines()
    heads = ["parameter", "layout", "l × m × n", "mean |X|", "max |X|", "coherence", "condition", "eff. rank"]
    assert " ".join(lines[0].split()) == " ".join(heads)
    assert lines[1].startswith("0.weight")
    plain = inspection.as_dict()
    assert plain["parameters"][0]["groups"] == (12, 1, 4)
    assert plain["skipped"] == {parameter.name: parameter.reason for parameter in inspection.skipped}


def test_selected_and_laid_out() -> None:
    held = {"w": torch.randn(8, 6), "v": torch.randn(3, 3)}
    inspection = gramian.inspect(held, select="w", layouts=gramian.Layout("(m n) i -> i m n", n=2))
    assert [row.groups for row in inspection.rows] == [(6, 4, 2)]
    assert [(each.name, each.reason) for each in inspection.skipped] == [("v", "not selected")]


def test_other_dtypes_are_named() -> None:
    inspection = gramian.inspect({"w": torch.randn(8, 6), "q": torch.ones(4, 4, dtype=torch.int8)})
    assert [(each.name, each.reason) for each in inspection.skipped] == [("q", "of dtype torch.int8")]


def test_something_else(unchecked) -> None:
    with pytest.raises(OptionError, match="must be a module or tensors by name; got Tensor"):
        gramian.inspect(torch.randn(3, 3))


@pytest.mark.parametrize("scale", [1e-160, 1e-30, 1.0, 1e100])
def test_angles_do_not_depend_on_the_scale(scale) -> None:
    phi = torch.randn(6, 2, 3, dtype=torch.float64)
    (row,) = gramian.inspect({"w": scale * phi}, layouts={"w": "l m n -> l m n"}).rows
    (plain,) = gramian.inspect({"w": phi}, layouts={"w": "l m n -> l m n"}).rows
    for name in ("coherence", "condition", "effective_rank"):
        assert getattr(row.statistics, name) == pytest.approx(getattr(plain.statistics, name), rel=1e-9)
