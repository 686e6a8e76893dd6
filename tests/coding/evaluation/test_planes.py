"""Planes of groups: the directions that hold most of the codes' power."""

import numpy as np
import torch

from gramian.coding import group_planes


def test_principal_directions() -> None:
    codes = torch.randn(40, 3, 4, dtype=torch.float64)
    planes = group_planes(codes)
    for group in range(3):
        a = codes[:, group].numpy()
        _, sizes, directions = np.linalg.svd(a)
        axes = planes.axes[group].numpy()
        np.testing.assert_allclose(np.abs(directions[:2] @ axes), np.eye(2), atol=1e-10)
        np.testing.assert_allclose(planes.share[group], (sizes[:2] ** 2).sum() / (sizes**2).sum())
        assert (axes[np.abs(axes).argmax(axis=0), [0, 1]] > 0).all()


def test_pairs_are_planes() -> None:
    planes = group_planes(torch.randn(10, 5, 2))
    torch.testing.assert_close(planes.share, torch.ones(5))
    torch.testing.assert_close(planes.axes.mT @ planes.axes, torch.eye(2).expand(5, 2, 2))


def test_a_silent_group() -> None:
    codes = torch.randn(10, 2, 3)
    codes[:, 1] = 0
    planes = group_planes(codes)
    assert planes.share[1].isnan()
    torch.testing.assert_close(planes.axes[1].mT @ planes.axes[1], torch.eye(2))
