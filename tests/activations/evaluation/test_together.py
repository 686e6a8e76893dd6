"""Which groups are active together, against counts by loops."""

import pytest
import torch

from gramian.activations.evaluation import coactivation
from tests.activations.evaluation.conftest import codes_of


def correlated(count: int = 600, m: int = 9) -> torch.Tensor:
    active = torch.rand(count, m) < 0.2
    active[:, 1] |= active[:, 0]
    active[:, 3] = active[:, 2] & (torch.rand(count) < 0.9)
    active[:, 8] = False
    return active[..., None].float() * torch.randn(count, m, 2)


@pytest.mark.parametrize("columns", [256, 2])
def test_lift_and_conditional(columns, monkeypatch) -> None:
    monkeypatch.setattr("gramian.activations.evaluation.together._COLUMNS", columns)
    dense = correlated()
    result = coactivation(codes_of(dense), count=3)
    active = dense.any(dim=2)
    found = 0
    for i in range(9):
        pairs = []
        for j in range(9):
            joint, one, other = (int(each.sum()) for each in (active[:, i] & active[:, j], active[:, i], active[:, j]))
            expected = one * other / 600
            if i != j and joint >= 10 and joint >= expected + 4 * expected**0.5:
                pairs.append((-joint / expected, j, joint / one))
        pairs = sorted(pairs)[:3]
        found += len(pairs)
        assert result.index[i].tolist() == [j for _, j, _ in pairs] + [-1] * (3 - len(pairs))
        assert result.lift[i, : len(pairs)].tolist() == pytest.approx([-lift for lift, _, _ in pairs])
        assert result.conditional[i, : len(pairs)].tolist() == pytest.approx([share for _, _, share in pairs])
    assert found >= 4
    assert result.index[2, 0] == 3
    assert result.samples == 600


def test_independent_and_rare_pairs_are_left_out() -> None:
    assert coactivation(codes_of((torch.rand(2000, 12, 1) < 0.3).float())).index.max() == -1
    rare = torch.zeros(2000, 2, 1)
    rare[:9] = 1
    assert coactivation(codes_of(rare)).index.max() == -1
    rare[:10] = 1
    assert coactivation(codes_of(rare), count=1).index.tolist() == [[1], [0]]


def test_the_number_of_counted_pairs_is_bounded(monkeypatch) -> None:
    dense = torch.ones(100, 4, 1)
    dense[50:, 2:] = 0
    monkeypatch.setattr("gramian.activations.evaluation.together._PAIRS", 16 * 50)
    assert coactivation(codes_of(dense)).samples == 50
    monkeypatch.setattr("gramian.activations.evaluation.together._PAIRS", 16 * 50 + 4 * 10)
    result = coactivation(codes_of(dense), fewest=1)
    assert result.samples == 60
