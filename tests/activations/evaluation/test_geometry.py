"""The shape of codes, against plain loops and against manifolds whose shape is known."""

import math

import pytest
import torch
from torch import Tensor

from gramian.activations.evaluation.geometry import circularity, code_moments, code_planes, effective_dimension
from gramian.coding import group_planes
from gramian.coding.evaluation import MANIFOLDS
from tests.activations.evaluation.conftest import codes_of


def test_moments(known) -> None:
    moments = code_moments(known.codes)
    for i in range(known.dense.shape[1]):
        active = known.dense[:, i][known.dense[:, i].any(dim=1)].double()
        if len(active):
            torch.testing.assert_close(moments.mean[i], active.mean(dim=0))
            torch.testing.assert_close(moments.second[i], active.T @ active / len(active))
        else:
            assert not moments.second[i].any()


def test_effective_dimension_is_the_participation_ratio(known) -> None:
    second = code_moments(known.codes).second
    values = torch.linalg.eigvalsh(second)
    expected = values.sum(dim=1) ** 2 / (values**2).sum(dim=1)
    torch.testing.assert_close(effective_dimension(second)[:-1], expected[:-1])
    assert effective_dimension(second)[-1] == 0


def test_planes_are_those_of_dense_codes(known) -> None:
    planes = code_planes(known.codes, code_moments(known.codes))
    dense = group_planes(known.dense.double())
    torch.testing.assert_close(planes.axes[:5], dense.axes[:5])
    torch.testing.assert_close(planes.share[:6], dense.share[:6])
    assert planes.share[-1] == 0
    for entry in range(0, len(planes.positions), 17):
        group = known.codes.group[entry]
        expected = planes.axes[group].T.float() @ known.codes.values[entry]
        torch.testing.assert_close(planes.positions[entry], expected)


def test_groups_of_one_direction_lie_on_a_line() -> None:
    planes = code_planes(codes := codes_of(torch.randn(50, 3, 1)), code_moments(codes))
    assert planes.axes.shape == (3, 1, 2)
    assert not planes.positions[:, 1].any()
    torch.testing.assert_close(planes.share, torch.ones(3, dtype=torch.float64))
    assert (circularity(codes, planes) < 0.2).all()


def points_of(kind: str) -> Tensor:
    dimension, draw = MANIFOLDS[kind]
    points = draw(5_000, torch.Generator().manual_seed(0)).float()
    return torch.nn.functional.pad(points, (0, 3 - dimension))[:, None]


@pytest.mark.parametrize(
    ("kind", "expected"), [("circle", 1.0), ("disk", 0.646), ("sphere", 0.477), ("segment", 0.0), ("away", 0.0)]
)
def test_circularity(kind, expected) -> None:
    points = points_of("circle") + torch.tensor([9.0, 0.0, 0.0]) if kind == "away" else points_of(kind)
    planes = code_planes(codes := codes_of(points), code_moments(codes))
    assert float(circularity(codes, planes)) == pytest.approx(expected, abs=0.04)


def test_circularity_of_few_or_no_samples_is_0() -> None:
    dense = torch.zeros(5, 2, 2)
    dense[0, 0, 0] = dense[1, 0, 1] = 1
    planes = code_planes(codes := codes_of(dense), code_moments(codes))
    assert circularity(codes, planes).tolist() == [0, 0]


def test_a_turned_basis_changes_nothing(known) -> None:
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    turned = codes_of(known.dense @ turn, known.phi @ turn, known.x)
    for one, other in ((known.codes, turned), (turned, known.codes)):
        planes = code_planes(one, code_moments(one))
        others = code_planes(other, code_moments(other))
        torch.testing.assert_close(
            effective_dimension(code_moments(one).second),
            effective_dimension(code_moments(other).second),
            rtol=1e-4,
            atol=0,
        )
        torch.testing.assert_close(circularity(one, planes), circularity(other, others), rtol=1e-2, atol=1e-3)
    assert not math.isnan(float(circularity(known.codes, planes).sum()))
