"""The module trains in a loop of its user, with frames that stay orthonormal."""

import copy
import math
from functools import cache

import pytest
import torch
from torch import nn

import gramian
from gramian.coding import BlockSparseAutoencoder, ManifoldSum, block_omp, fista
from gramian.coding.encoders import products
from gramian.coding.features.calibration import calibrate_
from gramian.coding.features.module import ENCODERS, FRAMES_LAYOUT, SELECTIONS
from gramian.errors import OptionError, ShapeError

SIZES = {"n_features": 24, "n_groups": 12, "group_size": 3, "active": 2}
KINDS = [(e, s) for e in ENCODERS for s in SELECTIONS if (e, s) != ("iterative", "batch_topk")]
DATA = ManifoldSum(24, n_factors=8, active=2, noise=0.1, seed=1)


@cache
def samples(count: int = 512, seed: int = 0) -> torch.Tensor:
    return DATA.draw(count, seed=seed).x * 24**0.5


def train(model: nn.Module, steps: int, *, beta: float = math.inf) -> gramian.training.Attachment:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    attachment = model.keep_orthonormal(optimizer, beta=beta)
    for step in range(steps):
        optimizer.zero_grad()
        model(samples(seed=step)).loss.backward()
        optimizer.step()
    return attachment


@pytest.mark.parametrize(
    ("encoder", "select"),
    [pytest.param(e, s, marks=[pytest.mark.slow] * (e == "tied" and s not in {"topk", "soft"})) for e, s in KINDS],
)
def test_every_encoder_with_every_selection(encoder, select) -> None:
    model = BlockSparseAutoencoder(**SIZES, encoder=encoder, select=select)
    before = float(model(samples(seed=99)).loss.detach())
    attachment = train(model, 20 if encoder == "iterative" else 50)
    assert max(attachment.residuals().values()) < 1e-5
    if (encoder, select) == ("iterative", "fdr"):
        calibrate_(model, samples(seed=98))  # or it would measure the noise from the samples of each call
    model.eval()
    with torch.no_grad():
        output = model(samples(seed=99))
    if select in {"topk", "batch_topk"}:  # with the same number of active groups, then and now
        assert float(output.loss) < before
    torch.testing.assert_close(output.reconstruction, model.decode(output.codes))
    torch.testing.assert_close(output.loss, (samples(seed=99) - output.reconstruction).square().mean())
    dense = output.codes.dense()
    torch.testing.assert_close(output.reconstruction, dense.flatten(1) @ model.phi.flatten(1).mT, rtol=1e-4, atol=1e-5)
    alone = torch.cat([model.encode(row[None]).dense() for row in samples(seed=99)[:20]])
    torch.testing.assert_close(alone, dense[:20], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("encoder", "select"), [kind for kind in KINDS if kind[1] != "fdr"])
def test_as_many_active_groups_as_asked(encoder, select) -> None:
    model = BlockSparseAutoencoder(**SIZES, encoder=encoder, select=select)
    train(model, 10 if encoder == "iterative" else 50)
    calibrate_(model, samples(4096, seed=500))
    model.eval()
    active = float(model.encode(samples(4096, seed=501)).active_groups.double().mean())
    assert active == pytest.approx(2, rel=0.03)


def test_the_number_that_a_false_discovery_rate_keeps() -> None:
    model = BlockSparseAutoencoder(**SIZES, encoder="tied", select="fdr")
    with torch.no_grad():
        model.frames[:8] = DATA.phi.float().permute(1, 2, 0)
        model.frames += 1e-3 * torch.randn(12, 3, 24)
        model.frames.copy_(gramian.orthogonalize(model.phi).phi.permute(1, 2, 0))
    calibrate_(model, samples(2048))
    model.eval()
    assert 1 < float(model.encode(samples(1000, seed=3)).active_groups.double().mean()) < 6
    assert float(model.select.variance) < 1


def test_soft_frames() -> None:
    model = BlockSparseAutoencoder(**SIZES)
    attachment = train(model, 60, beta=1.0)
    assert 0 < max(attachment.residuals().values()) < 0.1


def test_without_help_a_step_of_ours_after_the_optimiser_does_the_same() -> None:
    one, two = (BlockSparseAutoencoder(**SIZES) for _ in range(2))
    train(one, 10, beta=0.5)
    optimizer = torch.optim.Adam(two.parameters(), lr=3e-3)
    for step in range(10):
        optimizer.zero_grad()
        two(samples(seed=step)).loss.backward()
        optimizer.step()
        gramian.step_(two.frames, lr=3e-3, beta=0.5, layout=FRAMES_LAYOUT)
    torch.testing.assert_close(one.frames, two.frames)


def test_bounded_memory_gives_the_same_step(monkeypatch) -> None:
    model = BlockSparseAutoencoder(**SIZES, select="batch_topk")
    twin = copy.deepcopy(model)
    model(samples()).loss.backward()
    monkeypatch.setattr(products, "LARGEST", 512 * 3 * 2)
    twin(samples()).loss.backward()
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)


def test_idle_groups_are_counted() -> None:
    model = BlockSparseAutoencoder(**SIZES)
    used = model(samples()[:1]).codes.groups[0]
    expected = torch.ones(12, dtype=torch.int64)
    expected[used] = 0
    torch.testing.assert_close(model.idle, expected)
    model.eval()(samples()[1:2])
    torch.testing.assert_close(model.idle, expected)


def test_iterations_are_those_of_inference() -> None:
    x = samples(64)
    model = BlockSparseAutoencoder(**SIZES, encoder="iterative").eval()
    torch.testing.assert_close(model.encode(x).dense(), block_omp(x, model.phi, active=2).codes)
    model = BlockSparseAutoencoder(**SIZES, encoder="iterative", select="soft").eval()
    torch.testing.assert_close(model.encode(x).dense(), fista(x, model.phi, lam=1.0).codes)


def test_frames_of_the_size_of_a_sample() -> None:
    model = BlockSparseAutoencoder(6, n_groups=3, group_size=6, active=1)
    assert gramian.residual(model.phi).abs().max() < 1e-4


def test_the_state_goes_to_another_module_and_to_other_devices() -> None:
    model = BlockSparseAutoencoder(**SIZES, select="threshold")
    train(model, 5)
    other = BlockSparseAutoencoder(**SIZES, select="threshold", seed=7)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval().encode(samples()).dense(), model.eval().encode(samples()).dense())
    assert model.double()(samples().double()).loss.dtype == torch.float64
    assert "n_groups=12" in repr(model)
    assert repr(model(samples().double())).startswith("FeatureOutput(loss=")


def test_errors() -> None:
    for wrong, message in (
        ({"encoder": "magic"}, "encoder must be one of 'linear', 'tied', 'iterative'; got 'magic'"),
        ({"select": "magic"}, "select must be one of 'topk', .*; got 'magic'"),
        ({"encoder": "iterative", "select": "batch_topk"}, "select='batch_topk' must come with a one-pass encoder"),
        ({"group_size": 25}, "group_size must be at most the length of a sample; got 25 and 24; try group_size=24"),
        ({"active": 13}, "active must be at most the number of groups; got 13 of 12; try active=12"),
        ({"n_groups": 0}, "n_groups must be at least 1; got 0"),
        ({"rate": 1.5}, "rate must be less than 1; got 1.5; try rate=0.1"),
    ):
        with pytest.raises(OptionError, match=message):
            BlockSparseAutoencoder(**{**SIZES, **wrong})
    with pytest.raises(ShapeError, match=r"samples must have shape \[batch, 24\]; got \[5, 7\]"):
        BlockSparseAutoencoder(**SIZES)(torch.randn(5, 7))
    with pytest.raises(OptionError, match="candidates must come from a one-pass encoder; got encoder='iterative'"):
        BlockSparseAutoencoder(**SIZES, encoder="iterative").candidates(samples())
