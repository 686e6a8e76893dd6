"""The laws of priors over codes: value, prox, majorizer, density and samples, for every prior of the table."""

import math

import pytest
import torch
from torch import Tensor

from gramian.coding import Prior, group_norms
from gramian.errors import OptionError
from tests.prior_cases import PRIOR_CASES, PriorCase, over_priors, over_proper

LAM = 0.7
M = 3


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def allowed(case: PriorCase, codes: Tensor) -> Tensor:
    return codes.clamp_min(0) if case.nonnegative else codes


@over_priors
@pytest.mark.parametrize("n", [1, 3])
def test_zero_costs_nothing_and_nothing_costs_less(case, n) -> None:
    prior = case.build(M)
    assert (prior.value(torch.zeros(4, M, n, dtype=torch.float64), LAM) == 0).all()
    assert (prior.value(allowed(case, random(50, M, n)), LAM) >= 0).all()


@over_priors
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("step", [0.1, 2.0])
def test_prox_against_numerical_minimisation(case, n, step) -> None:
    """Radii on a fine grid along the codes, where the minimum lies by symmetry, and random points elsewhere."""
    prior, codes = case.build(M), random(40, M, n) * torch.logspace(-2, 2, 40, dtype=torch.float64)[:, None, None]
    prox = prior.prox(codes, LAM, step)
    sizes = group_norms(prox)
    assert (sizes == 0).any()
    assert (sizes > 0).any()

    def objective(a: Tensor) -> Tensor:
        """The objective of each group: the other groups are 0."""
        alone = torch.zeros(len(a), M, M, n, dtype=a.dtype)
        alone[:, torch.arange(M), torch.arange(M)] = a
        values = torch.stack([prior.value(alone[:, i], LAM) for i in range(M)], dim=1)
        return 0.5 * (a - codes).square().sum(dim=2) + step * values

    least = objective(prox)
    start = allowed(case, codes)
    for radius in torch.linspace(0, 1.2, 241, dtype=torch.float64):
        assert (least <= objective(radius * start) + 1e-12).all()
    for size in (1e-3, 0.1, 1.0):
        for _ in range(10):
            assert (least <= objective(allowed(case, prox + size * random(40, M, n))) + 1e-12).all()


@over_priors
def test_a_step_for_each_sample(case) -> None:
    prior, codes = case.build(M), 2 * random(5, M, 2)
    steps = torch.tensor([0.1, 0.5, 1.0, 2.0, 0.7], dtype=torch.float64)
    together = prior.prox(codes, LAM, steps[:, None])
    alone = torch.cat([prior.prox(codes[k : k + 1], LAM, float(step)) for k, step in enumerate(steps)])
    torch.testing.assert_close(together, alone, rtol=1e-14, atol=1e-14)


@over_priors
def test_the_majorizer_touches_and_bounds(case) -> None:
    prior, codes = case.build(M), allowed(case, 3 * random(30, M, 3))
    codes[:5, 0] = 0
    if not prior.has_majorizer:
        with pytest.raises(OptionError, match=r"prior must have a group Laplace majorizer.*try infer='block_omp'"):
            prior.majorizer(codes, LAM)
        return
    bound = prior.majorizer(codes, LAM)
    offset = bound.value(codes, LAM) - prior.value(codes, LAM)
    for size in (0.01, 1.0, 10.0):
        other = allowed(case, codes + size * random(30, M, 3))
        assert (prior.value(other, LAM) <= bound.value(other, LAM) - offset + 1e-9).all()


def radial(prior: Prior, n: int, radii: Tensor) -> Tensor:
    """The density of one group along a ray, in the orthant of positive coordinates."""
    codes = (radii / n**0.5)[:, None, None].expand(-1, 1, n)
    return torch.exp(-prior.value(codes, LAM) - prior.log_normalizer(1, n, LAM))


def mass(prior: Prior, case: PriorCase, n: int, radii: Tensor) -> Tensor:
    """The probability that the length of a group is at most each radius: the atom at 0, and an integral over shells."""
    area = 2 * math.pi ** (n / 2) / math.gamma(n / 2) / (2**n if case.nonnegative else 1)
    shells = area * radii ** (n - 1) * radial(prior, n, radii)
    at_zero = math.exp(-prior.log_normalizer(1, n, LAM)) if prior.counts_groups else 0.0
    if prior.counts_groups:
        shells[0] = shells[1]
    return at_zero + torch.cat([shells.new_zeros(1), torch.cumulative_trapezoid(shells, radii)])


@over_proper
@pytest.mark.parametrize("n", [1, 2, 3])
def test_densities_integrate_to_one(case, n) -> None:
    prior = case.build(1)
    radii = torch.logspace(-6, 9, 100_001, dtype=torch.float64)
    radii = torch.cat([radii.new_zeros(1), radii])
    assert mass(prior, case, n, radii)[-1].item() == pytest.approx(1, abs=2e-4)


@over_proper
@pytest.mark.parametrize("n", [1, 3])
def test_samples_have_the_density(case, n) -> None:
    prior = case.build(1)
    count = 40_000
    codes = prior.sample(count, 1, n, LAM, generator=torch.Generator().manual_seed(0))
    assert codes.shape == (count, 1, n)
    lengths = group_norms(codes).flatten()
    radii = torch.linspace(0, 8, 80_001, dtype=torch.float64)
    expected = mass(prior, case, n, radii)
    for cut in (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0):
        share = (lengths <= cut).double().mean().item()
        # Five standard deviations of a share of this many samples.
        assert share == pytest.approx(expected[round(cut * 10_000)].item(), abs=2.5 / count**0.5)
    if case.nonnegative:
        assert (codes >= 0).all()
    else:
        assert codes.mean(dim=0).abs().max() < 5 * codes.std() / count**0.5


def test_a_flat_slab_has_no_density() -> None:
    prior = PRIOR_CASES["l0"].build(1)
    with pytest.raises(OptionError, match="flat slab; try SpikeSlab"):
        prior.log_normalizer(1, 2, LAM)
    with pytest.raises(OptionError, match="'group_l0' has none; try SpikeSlab"):
        prior.sample(1, 1, 2, LAM, generator=torch.Generator())
