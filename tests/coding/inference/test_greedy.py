"""Block OMP: which groups it selects, when it stops, and the false discoveries among them."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from gramian.coding import (
    Convolution,
    GroupLaplace,
    ManifoldSum,
    SpikeSlab,
    block_iht,
    block_omp,
    energy,
    group_norms,
    refit,
)
from gramian.coding.inference.discoveries import discoveries, p_values
from gramian.errors import OptionError, ShapeError
from tests.cases import stiefel


def slow_omp(x: Tensor, phi: Tensor, active: int) -> list[int]:
    """Select groups by the exact reduction of the squared error of each candidate alone, on what is left."""
    groups: list[int] = []
    left = x
    for _ in range(active):
        best = max(
            (group for group in range(phi.shape[1]) if group not in groups),
            key=lambda group: torch.linalg.vector_norm(torch.linalg.qr(phi[:, group]).Q.mT @ left).item(),
        )
        groups.append(best)
        atoms = phi[:, groups].flatten(1)
        left = x - atoms @ torch.linalg.lstsq(atoms, x[:, None]).solution[:, 0]
    return groups


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("orthonormal", [True, False])
def test_the_same_groups_as_a_slow_selection(n, orthonormal) -> None:
    phi = stiefel(20, 12, n) if orthonormal else torch.randn(20, 12, n, dtype=torch.float64)
    x = torch.randn(8, 20, dtype=torch.float64)
    result = block_omp(x, phi, active=4)
    for row, support in zip(x, result.support, strict=True):
        assert set(slow_omp(row, phi, 4)) == set(support.nonzero()[:, 0].tolist())
    torch.testing.assert_close(refit(x, phi, result.codes), result.codes, rtol=1e-9, atol=1e-9)


def test_sums_of_few_groups_are_recovered() -> None:
    data = ManifoldSum(64, n_factors=48, active=3)
    samples = data.draw(300, seed=1)
    result = block_omp(samples.x, data.phi.float(), active=3)
    right = (result.support == samples.active).all(dim=1)
    assert right.double().mean() > 0.98  # a point near the centre of a disk is less than others explain by chance
    assert result.iterations == 3
    torch.testing.assert_close(result.codes[right], samples.codes[right], rtol=0, atol=1e-4)


@pytest.mark.parametrize("residual", [0.5, 0.1, 1e-3])
def test_it_stops_at_a_residual(residual) -> None:
    phi, x = stiefel(24, 30, 2), torch.randn(40, 24, dtype=torch.float64)
    result = block_omp(x, phi, residual=residual)
    assert result.converged
    share = (x - result.codes.flatten(1) @ phi.flatten(1).mT).square().sum(dim=1) / x.square().sum(dim=1)
    assert (share <= residual * (1 + 1e-9)).all()
    # With one group less, the residual is larger.
    for row, count in zip(x, result.support.sum(dim=1).tolist(), strict=True):
        less = block_omp(row[None], phi, active=count - 1).codes if count > 1 else torch.zeros(1, 30, 2).double()
        assert (row - (less.flatten(1) @ phi.flatten(1).mT)[0]).square().sum() > residual * row.square().sum()


def test_a_price_that_no_group_is_worth() -> None:
    phi, x = stiefel(24, 10, 2), torch.randn(5, 24, dtype=torch.float64)
    strongest = group_norms((x @ phi.flatten(1)).unflatten(1, (10, 2))).amax(dim=1)
    for row, gain in zip(x, 0.5 * strongest.square(), strict=True):
        assert not block_omp(row[None], phi, lam=1.001 * float(gain)).codes.any()
        assert block_omp(row[None], phi, lam=0.999 * float(gain)).codes.any()


def test_dependent_and_zero_groups() -> None:
    phi = stiefel(16, 8, 2)
    phi[:, 3] = phi[:, 2]  # a copy
    phi[:, 4] = 0
    phi[:, 5, 1] = phi[:, 5, 0]  # one dimension
    x = torch.randn(30, 16, dtype=torch.float64)
    result = block_omp(x, phi, active=7)
    assert result.codes.isfinite().all()
    assert not (result.support[:, 2] & result.support[:, 3]).any()
    assert not result.codes[:, 4].any()


def test_a_limit_of_groups_is_reported() -> None:
    phi, x = stiefel(24, 10, 2), torch.randn(6, 24, dtype=torch.float64)
    result = block_omp(x, phi, lam=1e-6, max_groups=3)
    assert result.iterations == 3
    assert not result.converged
    assert (result.support.sum(dim=1) == 3).all()
    assert block_omp(x, phi, active=3).converged


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("rate", [0.1])
def test_the_false_discovery_rate(rate, known) -> None:
    data = ManifoldSum(96, n_factors=96, active=3, noise=0.1)
    samples = data.draw(2000, seed=1)
    noise = 0.1 / 96**0.5 if known else None
    result = block_omp(samples.x, data.phi.float(), fdr=rate, noise=noise)
    support = result.support
    share = (support & ~samples.active).sum(dim=1) / support.sum(dim=1).clamp_min(1)
    assert rate / 2 < share.mean().item() < 1.5 * rate
    assert (support & samples.active).sum() > 0.95 * samples.active.sum()


def test_noise_alone_is_seldom_a_discovery() -> None:
    phi, x = stiefel(64, 64, 2).float(), torch.randn(3000, 64)
    support = block_omp(x, phi, fdr=0.1, noise=1.0).support
    # With no true group, every discovery is false: the rate is the share of samples with any.
    assert support.any(dim=1).double().mean().item() == pytest.approx(0.1, abs=0.04)


def test_benjamini_and_hochberg_on_a_path() -> None:
    p = torch.tensor([[1e-9, 0.011, 0.02, 0.9], [0.5, 0.5, 0.5, 0.5], [0.004, 0.03, 0.029, 1.0]], dtype=torch.float64)
    assert discoveries(p, m=10, rate=0.1).tolist() == [3, 0, 3]
    # P(χ²_2 ≥ g) = exp(−g/2).
    gains = torch.tensor([[2.0, 8.0]], dtype=torch.float64)
    expected = torch.exp(-gains / (2 * 4.0))
    torch.testing.assert_close(p_values(gains, torch.full_like(gains, 2.0), 4.0), expected)


def test_a_rule_takes_precedence_over_the_price() -> None:
    phi, x = stiefel(24, 10, 2), torch.randn(6, 24, dtype=torch.float64)
    method = partial(block_omp, active=2)
    assert (method(x, phi, lam=1e-9).support.sum(dim=1) == 2).all()


def test_a_gaussian_slab_gives_ridge_codes() -> None:
    phi, x = stiefel(24, 10, 2), torch.randn(6, 24, dtype=torch.float64)
    prior = SpikeSlab(scale=0.7)
    result = block_omp(x, phi, lam=0.2, prior=prior)
    for row, codes, support in zip(x, result.codes, result.support, strict=True):
        atoms = phi[:, support].flatten(1)
        matrix = atoms.mT @ atoms + prior.scale**-2 * torch.eye(atoms.shape[1], dtype=x.dtype)
        torch.testing.assert_close(codes[support].flatten(), torch.linalg.solve(matrix, atoms.mT @ row))
    free = block_omp(x, phi, lam=0.2).codes
    assert (energy(x, phi, result.codes, 0.2, prior).total <= energy(x, phi, free, 0.2, prior).total + 1e-9).all()


def test_hard_thresholds_find_the_k_groups() -> None:
    data = ManifoldSum(64, n_factors=48, active=3)
    samples = data.draw(200, seed=2)
    result = block_iht(samples.x, data.phi.float(), active=3)
    assert (result.support == samples.active).double().mean() > 0.995
    assert (result.support.sum(dim=1) == 3).all()


def test_hard_thresholds_with_a_convolution() -> None:
    synthesis = Convolution(torch.randn(6, 1, 3, 3, dtype=torch.float64) / 3, group_size=2)
    codes = torch.zeros(2, 3, 2, 6, 6, dtype=torch.float64)
    codes[0, 1, :, 2, 3], codes[1, 2, :, 0, 5] = 4.0, -3.0
    x = synthesis.synthesise(codes)
    result = block_iht(x, synthesis, lam=1.0, max_iter=500)
    assert result.support.shape == (2, 3, 6, 6)
    error = (x - synthesis.synthesise(result.codes)).square().sum()
    assert error < 1e-2 * x.square().sum()
    with pytest.raises(OptionError, match=r"block_omp must have atoms as long as samples.*got a convolution; try"):
        block_omp(x, synthesis, active=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "must have one rule that ends the selection: lam, active, residual or fdr; got none; try active=4"),
        ({"active": 2, "fdr": 0.1}, "got active and fdr"),
        ({"active": 0}, "active must be at least 1"),
        ({"active": 1.5}, "active must be a whole number"),
        ({"fdr": 1.5}, r"fdr must be between 0 and 1; got 1\.5; try fdr=0\.1"),
        ({"active": 2, "noise": 1.0}, "noise must come with fdr"),
        ({"fdr": 0.1, "noise": 0.0}, "noise must be positive"),
        ({"lam": -1.0}, "lam must be positive"),
        ({"residual": math.nan}, "residual must be"),
        ({"lam": 1.0, "prior": "group_laplace"}, "prior must have a price for every active group for block_omp; got"),
        ({"lam": 1.0, "max_groups": 0}, "max_groups must be at least 1"),
    ],
)
def test_mistakes(options, message) -> None:
    with pytest.raises(OptionError, match=message):
        block_omp(torch.randn(3, 12), torch.randn(12, 5, 2), **options)


def test_mistakes_of_hard_thresholds() -> None:
    x, phi = torch.randn(3, 12), torch.randn(12, 5, 2)
    with pytest.raises(OptionError, match=r"must have the price of an active group or their number; try lam=2\.0"):
        block_iht(x, phi)
    with pytest.raises(OptionError, match="prior must have a price for every active group for block_iht"):
        block_iht(x, phi, lam=1.0, prior=GroupLaplace())
    with pytest.raises(ShapeError, match="codes to start from must have shape"):
        block_iht(x, phi, lam=1.0, start=torch.zeros(3, 5, 1))


class TestRefit:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_supports_of_every_size(self, dtype) -> None:
        phi, x = torch.randn(40, 9, 3, dtype=dtype), torch.randn(60, 40, dtype=dtype)
        codes = torch.randn(60, 9, 3, dtype=dtype) * (torch.rand(60, 9, 1) < torch.linspace(0, 1, 60)[:, None, None])
        fitted = refit(x, phi, codes)
        assert fitted.dtype == dtype
        assert torch.equal(group_norms(fitted) > 0, group_norms(codes) > 0)
        for row, support, result in zip(x, group_norms(codes) > 0, fitted, strict=True):
            atoms = phi[:, support].flatten(1).double()
            if atoms.shape[1]:
                best = torch.linalg.lstsq(atoms, row.double()[:, None]).solution[:, 0]
                torch.testing.assert_close(result[support].flatten().double(), best, rtol=1e-4, atol=1e-5)

    def test_a_convolution_and_large_supports_by_conjugate_gradients(self) -> None:
        synthesis = Convolution(torch.randn(4, 1, 3, 3, dtype=torch.float64) / 3, group_size=2)
        codes = torch.zeros(1, 2, 2, 6, 6, dtype=torch.float64)
        codes[:, :, :, ::3, ::3] = torch.randn(1, 2, 2, 2, 2, dtype=torch.float64)
        fitted = refit(synthesis.synthesise(codes), synthesis, codes.sign())
        torch.testing.assert_close(fitted, codes, rtol=0, atol=1e-8)
        phi = torch.randn(700, 300, 2, dtype=torch.float64)
        codes = torch.randn(2, 300, 2, dtype=torch.float64)
        fitted = refit(codes.flatten(1) @ phi.flatten(1).mT, phi, codes)
        torch.testing.assert_close(fitted, codes, rtol=0, atol=1e-6)

    def test_mistakes(self) -> None:
        with pytest.raises(ShapeError, match=r"codes must have shape \[3, 5, 2\]; got \[3, 5, 1\]"):
            refit(torch.randn(3, 12), torch.randn(12, 5, 2), torch.randn(3, 5, 1))
        with pytest.raises(OptionError, match="ridge must be"):
            refit(torch.randn(3, 12), torch.randn(12, 5, 2), torch.randn(3, 5, 2), ridge=-1.0)
