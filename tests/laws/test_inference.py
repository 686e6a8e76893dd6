"""The laws of inference, for every method with every prior that it accepts."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gramian.coding import energy, group_norms, refit
from tests.cases import stiefel
from tests.prior_cases import over_inference

LAM = 1.0


def problem(case, count: int = 8) -> tuple[Tensor, Tensor]:
    phi = stiefel(24, 10, 2)
    codes = torch.zeros(count, 10, 2, dtype=torch.float64)
    for row in range(count):
        codes[row, torch.randperm(10)[:3]] = 3 * torch.randn(3, 2, dtype=torch.float64)
    codes = codes.abs() if case.nonnegative else codes
    return codes.flatten(1) @ phi.flatten(1).mT + 0.1 * torch.randn(count, 24, dtype=torch.float64), phi


def total(x: Tensor, phi: Tensor, codes: Tensor, case) -> Tensor:
    return energy(x, phi, codes, LAM, case.build(10)).total


@over_inference
def test_the_energy_falls_and_never_rises(method, case) -> None:
    x, phi = problem(case)
    prior = case.build(10)
    codes = torch.zeros(len(x), 10, 2, dtype=x.dtype)
    at_zero = before = total(x, phi, codes, case)
    for _ in range(6):
        codes = method(x, phi, lam=LAM, prior=prior, max_iter=1, tol=1e-9, start=codes).codes
        after = total(x, phi, codes, case)
        if method.__name__ == "block_iht":
            assert (after <= before * (1 + 1e-12)).all()
        before = after
    after = total(x, phi, method(x, phi, lam=LAM, prior=prior, max_iter=1000, tol=1e-9).codes, case)
    assert (after <= at_zero).all()
    assert (after < at_zero).sum() > len(x) // 2


@over_inference
def test_no_step_of_the_prox_lowers_the_energy_at_the_end(method, case) -> None:
    """For block_omp, which does not take back a group, no added group lowers it."""
    x, phi = problem(case)
    prior = case.build(10)
    if prior.rounds > 1:
        prior = replace(prior, rounds=40)
    codes = method(x, phi, lam=LAM, prior=prior, max_iter=1500, tol=1e-11).codes
    least = total(x, phi, codes, case)
    if method.__name__ == "block_omp":
        for group in range(10):
            wider = codes.clone()
            wider[:, group] += 1e-9 * (group_norms(codes)[:, group] == 0)[:, None]
            fitted = refit(x, phi, wider, ridge=prior.ridge or 0.0)
            if prior.ridge is not None:
                assert (least <= total(x, phi, fitted, case) + 1e-9).all()
        return
    rate = 0.5 / float(torch.linalg.matrix_norm(phi.flatten(1), 2)) ** 2
    error = x - codes.flatten(1) @ phi.flatten(1).mT
    gradient = (error @ phi.flatten(1)).unflatten(1, (10, 2))
    assert (least <= total(x, phi, prior.prox(codes + rate * gradient, LAM, rate), case) + 1e-6).all()


@over_inference
def test_the_result_says_what_is_certified(method, case) -> None:
    x, phi = problem(case)
    result = method(x, phi, lam=LAM, prior=case.build(10), max_iter=3000, tol=1e-6)
    assert result.converged
    assert torch.equal(result.support, group_norms(result.codes) > 0)
    if case.build(10).counts_groups:
        assert result.certified == "support"
        assert result.gap.isinf().all()
        if case.build(10).ridge is not None:
            fitted = refit(x, phi, result.codes, ridge=case.build(10).ridge)
            torch.testing.assert_close(fitted, result.codes, rtol=1e-9, atol=1e-9)
    else:
        assert result.certified == ("minimum" if case.build(10).rounds == 1 else "majorizer")
        assert result.gap.isfinite().all()


@over_inference
def test_codes_do_not_depend_on_the_other_samples(method, case) -> None:
    x, phi = problem(case, count=7)
    together = method(x, phi, lam=LAM, prior=case.build(10), max_iter=400, tol=1e-8).codes
    alone = torch.cat(
        [method(row[None], phi, lam=LAM, prior=case.build(10), max_iter=400, tol=1e-8).codes for row in x]
    )
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@over_inference
def test_no_samples_and_samples_that_are_not_finite(method, case) -> None:
    x, phi = problem(case, count=4)
    empty = method(x[:0], phi, lam=LAM, prior=case.build(10))
    assert empty.codes.shape == (0, 10, 2)
    x[1, 3], x[2, 0] = math.nan, math.inf
    result = method(x, phi, lam=LAM, prior=case.build(10), max_iter=100)
    assert not result.converged
    assert result.gap[1:3].isinf().all()
    usual = method(x[[0, 3]], phi, lam=LAM, prior=case.build(10), max_iter=100)
    torch.testing.assert_close(result.codes[[0, 3]], usual.codes, rtol=0, atol=1e-5)


@over_inference
@pytest.mark.parametrize("large", [1e4])
def test_a_large_price_gives_zero_codes(method, case, large) -> None:
    x, phi = problem(case, count=3)
    assert not method(x, phi, lam=large, prior=case.build(10)).codes.any()
