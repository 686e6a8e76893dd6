"""The numbers of an inspection, beside singular values and plain loops."""

import math
from dataclasses import asdict
from statistics import fmean

import pytest
import torch
from torch import nn

import gramian
from gramian.errors import DataError, OptionError
from gramian.inspection import measures, statistics
from tests.cases import stiefel


@pytest.mark.parametrize("few", [1, 1 << 22])
@pytest.mark.parametrize("shape", [(9, 5, 3), (20, 1, 7), (6, 2, 1)], ids=str)
def test_beside_plain_loops(shape, few, monkeypatch) -> None:
    monkeypatch.setattr(measures, "_NUMBERS", few)
    phi = torch.randn(shape)
    _, m, n = shape
    residuals, norms, cosines, conditions, ranks = [], [], [], [], []
    for i in range(m):
        P = phi[:, i].double()
        residuals += (P.T @ P - torch.eye(n)).abs().flatten().tolist()
        norms += [math.sqrt(float((P[:, j] ** 2).sum())) for j in range(n)]
        for j in range(n):
            cosines += [abs(float(torch.cosine_similarity(P[:, j], P[:, k], dim=0))) for k in range(n) if j != k]
        values = torch.linalg.svdvals(P)
        conditions.append(float(values[0] / values[-1]))
        share = values / values.sum()
        ranks.append(math.exp(-float((share * share.log()).sum())))
    expected = {
        "mean": fmean(residuals),
        "largest": max(residuals),
        "smallest_norm": min(norms),
        "mean_norm": fmean(norms),
        "largest_norm": max(norms),
        "mean_cosine": fmean(cosines) if cosines else 0.0,
        "coherence": max(cosines, default=0.0),
        "condition": max(conditions),
        "effective_rank": fmean(ranks),
    }
    assert asdict(statistics(phi)) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_lengths_and_angles_are_apart() -> None:
    orthogonal = stiefel(12, 3, 4)
    longer = statistics(orthogonal * torch.linspace(0.5, 2, 4))
    assert (longer.smallest_norm, longer.mean_norm, longer.largest_norm) == pytest.approx((0.5, 1.25, 2))
    assert longer.coherence < 1e-12
    assert longer.largest == pytest.approx(3)
    oblique = torch.nn.functional.normalize(torch.randn(12, 3, 4, dtype=torch.float64), dim=0)
    turned = statistics(oblique)
    assert (turned.smallest_norm, turned.largest_norm) == pytest.approx((1, 1))
    assert turned.coherence == pytest.approx(turned.largest)
    assert turned.mean_cosine == pytest.approx(turned.mean * 4 / 3)


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
    heads = ["parameter", "layout", "l × m × n", "mean |X|", "max |X|", "norms", "mean |cos|", "max |cos|"]
    heads += ["condition", "eff. rank"]
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


def test_excluded() -> None:
    weights = {name: torch.randn(4, 6) for name in ("a.w", "a.v", "b.w")}
    inspection = gramian.inspect(weights, exclude="a.*")
    assert [row.name for row in inspection.rows] == ["b.w"]
    assert [(each.name, each.reason) for each in inspection.skipped] == [("a.w", "excluded"), ("a.v", "excluded")]
    assert [row.name for row in gramian.inspect(weights, select="*.w", exclude=["a.*"]).rows] == ["b.w"]
    model = nn.Sequential(nn.Linear(12, 4), nn.Conv2d(3, 5, 3))
    assert [row.name for row in gramian.inspect(model, exclude=nn.Conv2d).rows] == ["0.weight"]
    with pytest.raises(OptionError, match="every pattern in exclude must match"):
        gramian.inspect(weights, exclude="c.*")


def test_before_and_after() -> None:
    before = {"w": torch.randn(4, 6), "old": torch.randn(4, 6), "resized": torch.randn(4, 6), "f": torch.randn(4, 6)}
    after = before | {"w": stiefel(6, 1, 4)[:, 0].T, "new": torch.randn(4, 6), "resized": torch.randn(6, 6)}
    after["f"] = torch.ones(4, 6, dtype=torch.int32)
    del after["old"]
    first, second = gramian.inspect(before), gramian.inspect(after)
    comparison = second.since(first)
    (change,) = comparison.rows
    assert (change.name, change.groups) == ("w", (6, 1, 4))
    assert (change.before, change.after) == (first.rows[0].statistics, second.rows[0].statistics)
    assert change.differences["largest"] == change.after.largest - change.before.largest
    assert {each.name: each.reason for each in comparison.unmatched} == {
        "resized": "of shape [4, 6] before and [6, 6] after",
        "new": "only after",
        "old": "only before",
        "f": "only before; the other is skipped: of dtype torch.int32",
    }
    assert comparison.as_dict()["parameters"][0]["differences"] == pytest.approx(change.differences)
    lines = str(comparison).splitlines()
    assert len(lines) == 6
    assert f"{change.before.mean:.1e} → {change.after.mean:.1e}" in lines[1]
    laid = gramian.inspect(before, select="w", layouts="o i -> o () i").since(gramian.inspect(before, select="w"))
    assert laid.unmatched[0].reason == "laid out as 'o i -> i () o' before, 'o i -> o () i' after"
    assert str(laid).startswith("no parameter is in both:\nw ")


def test_other_dtypes_are_named() -> None:
    inspection = gramian.inspect({"w": torch.randn(8, 6), "q": torch.ones(4, 4, dtype=torch.int8)})
    assert [(each.name, each.reason) for each in inspection.skipped] == [("q", "of dtype torch.int8")]


def test_something_else() -> None:
    with pytest.raises(OptionError, match="must be a module or tensors by name; got Tensor"):
        gramian.inspect(torch.randn(3, 3))


@pytest.mark.parametrize("scale", [1e-160, 1e-30, 1.0, 1e100])
def test_angles_do_not_depend_on_the_scale(scale) -> None:
    phi = torch.randn(6, 2, 3, dtype=torch.float64)
    (row,) = gramian.inspect({"w": scale * phi}, layouts={"w": "l m n -> l m n"}).rows
    (plain,) = gramian.inspect({"w": phi}, layouts={"w": "l m n -> l m n"}).rows
    for name in ("coherence", "condition", "effective_rank"):
        assert getattr(row.statistics, name) == pytest.approx(getattr(plain.statistics, name), rel=1e-9)
