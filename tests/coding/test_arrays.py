"""Mean and scale of samples, at once, in parts and merged."""

import numpy as np
import pytest
import torch

from gramian.coding import arrays
from gramian.coding.arrays import merged_mean_and_scale
from gramian.errors import DataError


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("part", [7, 65_536])
def test_moments_beside_numpy(monkeypatch, part, center) -> None:
    monkeypatch.setattr(arrays, "_PART", part)
    X = (3 + 2 * torch.randn(50, 4)).float()
    mean, scale = merged_mean_and_scale(X[:20], center=center, previous=None)
    mean, scale = merged_mean_and_scale(X[20:], center=center, previous=(mean, scale, 20))
    exact = X.double().numpy()
    expected = exact.mean(axis=0) if center else np.zeros(4)
    np.testing.assert_allclose(mean, expected)
    assert scale == pytest.approx(np.sqrt(np.mean((exact - expected) ** 2)))


def test_samples_without_variance() -> None:
    with pytest.raises(DataError, match="samples must differ; got one value in every feature, n_samples = 3"):
        merged_mean_and_scale(torch.full((3, 2), 0.1), center=True, previous=None)
