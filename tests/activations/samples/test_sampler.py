"""Samplers: prepared samples in shuffled epochs, shared by processes, the same after a resume."""

from itertools import islice

import pytest
import torch

from gramian.activations import ActivationSampler, Preparation, open_activations, split_held_out
from gramian.errors import DataError, OptionError

X = torch.randn(300, 4) * 5 + torch.arange(4)


def test_an_epoch_of_prepared_samples() -> None:
    sampler = ActivationSampler(open_activations(X))
    drawn = torch.cat([sampler.sample(50, seed=0, step=step) for step in range(6)])
    torch.testing.assert_close(drawn.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    assert float(drawn.square().mean()) == pytest.approx(1, rel=1e-5)
    restored = sampler.preparation.restore(drawn)
    torch.testing.assert_close(restored.sort(dim=0).values, X.sort(dim=0).values, atol=1e-4, rtol=1e-5)
    assert sampler.epoch(6, count=50) == 1


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_every_step(processes) -> None:
    activations = open_activations(X)
    one = ActivationSampler(activations)
    shares = [ActivationSampler(activations, process=process, processes=processes) for process in range(processes)]
    for step in (0, 5, 40):
        together = torch.cat([share.sample(10, seed=7, step=step) for share in shares])
        assert torch.equal(together, one.sample(10 * processes, seed=7, step=step))


def test_a_resumed_loop_draws_the_same(captured) -> None:
    path, _ = captured()
    whole = list(islice(ActivationSampler(open_activations(path)).batches(7, seed=1), 20))
    rest = islice(ActivationSampler(open_activations(path)).batches(7, seed=1, step=13), 7)
    assert all(torch.equal(x, y) for x, y in zip(whole[13:], rest, strict=True))


def test_held_out_samples_are_the_last() -> None:
    train, held_out = split_held_out(open_activations(X), fraction=0.1)
    assert torch.equal(torch.cat([train[:], held_out[:]]), X)
    assert len(held_out) == 30
    for fraction in (0, 1, -0.5, 0.9999):
        with pytest.raises(OptionError, match="the fraction to hold out must leave samples in both parts"):
            split_held_out(open_activations(X), fraction=fraction)


def test_without_centring() -> None:
    preparation = Preparation.fit(open_activations(X), centre=False)
    assert torch.equal(preparation.mean, torch.zeros(4))
    assert float(preparation.prepare(X).square().mean()) == pytest.approx(1, rel=1e-5)


def test_wrong_options() -> None:
    activations = open_activations(X)
    with pytest.raises(OptionError, match="process must be less than processes, 2; got 2"):
        ActivationSampler(activations, process=2, processes=2)
    with pytest.raises(DataError, match="samples must differ to be scaled; got 5 of scale 0"):
        Preparation.fit(open_activations(torch.ones(5, 3)))
