"""Mean and scale of samples in parts are those of all samples."""

import pytest
import torch

from gramian.activations.store.statistics import Statistics


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_give_the_statistics_of_all(dtype) -> None:
    x = (100 + 3 * torch.randn(9000, 5) * torch.tensor([1, 2, 3, 4, 5])).to(dtype)
    total = Statistics.empty(5)
    for part in (x[:1], x[1:4500], x[4500:4500], x[4500:]):
        total = total.merge(Statistics.of(part))
    wide = x.double()
    mean = wide.mean(dim=0)
    assert total.samples == 9000
    torch.testing.assert_close(total.mean, mean, rtol=1e-12, atol=0)
    assert total.scale == pytest.approx(float((wide - mean).square().mean().sqrt()), rel=1e-12)


def test_equal_samples_have_scale_0() -> None:
    assert Statistics.of(torch.full((10, 3), 0.5)).scale == 0
    assert Statistics.of(torch.empty(0, 3)).samples == 0
