"""The order of samples: every sample once in an epoch, the same for any way of asking, well mixed."""

import pytest
import torch

from gramian.activations.samples.order import ShuffledOrder
from gramian.errors import OptionError


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 1000, 16_384, 16_385, 40_001])
def test_an_epoch_has_every_sample_once(samples) -> None:
    order = ShuffledOrder(samples, seed=3)
    for epoch in (0, 7):
        rows = order.rows(epoch * samples, samples)
        assert torch.equal(rows.sort().values, torch.arange(samples))


def test_rows_do_not_depend_on_how_they_are_asked_for() -> None:
    order = ShuffledOrder(20_001, seed=1)
    whole = order.rows(0, 50_000)
    pieces = torch.cat([order.rows(first, 777) for first in range(0, 50_000, 777)])[:50_000]
    assert torch.equal(whole, pieces)
    assert order.rows(123, 0).tolist() == []


def test_epochs_seeds_and_windows_differ() -> None:
    first = ShuffledOrder(40_000, seed=0)
    assert not torch.equal(first.rows(0, 1000), first.rows(40_000, 1000))
    assert not torch.equal(first.rows(0, 1000), ShuffledOrder(40_000, seed=1).rows(0, 1000))
    assert not torch.equal(first.rows(0, 1000) % 64, first.rows(16_384, 1000) % 64)
    assert torch.equal(first.rows(0, 1000), ShuffledOrder(40_000, seed=0).rows(0, 1000))


def test_a_batch_mixes_distant_samples() -> None:
    samples = 1_000_000
    rows = ShuffledOrder(samples, seed=0).rows(5 * 512, 512)
    blocks = (rows // 64).unique()
    assert len(blocks) > 180
    assert float(rows.double().mean()) == pytest.approx(samples / 2, rel=0.1)
    window = ShuffledOrder(samples, seed=0).rows(0, 16_384)
    assert len((window // 64).unique()) <= 257


def test_options() -> None:
    with pytest.raises(OptionError, match="samples must be at least 1; got 0"):
        ShuffledOrder(0, seed=0)
    for seed in (-(2**63), 2**64 - 1):
        assert len(ShuffledOrder(10, seed=seed).rows(0, 10)) == 10
