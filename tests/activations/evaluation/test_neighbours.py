"""The nearest subspaces, against all pairs of principal angles by scipy."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from gramian.activations.evaluation import nearest_subspaces


def frames(length: int, m: int, n: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(m, length, n)).Q.permute(1, 0, 2)


@pytest.mark.parametrize("rows", [128, 3])
def test_angles_of_the_nearest(rows, monkeypatch) -> None:
    monkeypatch.setattr("gramian.activations.evaluation.neighbours._ROWS", rows)
    phi = frames(12, 10, 3)
    near = nearest_subspaces(phi, count=4)
    for i in range(10):
        angles = {j: subspace_angles(phi[:, i].numpy(), phi[:, j].numpy()) for j in range(10) if j != i}
        overlap = {j: np.mean(np.cos(each) ** 2) for j, each in angles.items()}
        order = sorted(overlap, key=lambda j: -overlap[j])[:4]
        assert near.index[i].tolist() == order
        np.testing.assert_allclose(near.overlap[i], [overlap[j] for j in order], atol=1e-5)
        np.testing.assert_allclose(near.smallest[i], [np.degrees(angles[j].min()) for j in order], atol=1e-2)
        np.testing.assert_allclose(near.largest[i], [np.degrees(angles[j].max()) for j in order], atol=1e-2)


def test_frames_need_not_be_orthonormal() -> None:
    phi = frames(12, 8, 3)
    mixed = phi @ torch.randn(3, 3)
    assert torch.equal(nearest_subspaces(phi).index, nearest_subspaces(mixed).index)


def test_groups_without_direction_and_too_few_groups() -> None:
    phi = frames(12, 4, 3)
    phi[:, 2] = 0
    phi[:, 3, 1:] = 0
    near = nearest_subspaces(phi, count=3)
    assert (near.index == 2).sum() == 0
    assert near.index[2].tolist() == [-1, -1, -1]
    assert (near.index[:, 2] == -1).all()
    assert near.smallest[3, 0] == pytest.approx(float(near.largest[3, 0]))  # one dimension has one angle
    assert nearest_subspaces(torch.zeros(5, 3, 2)).index.max() == -1
    assert nearest_subspaces(phi[:, :1]).index.max() == -1
