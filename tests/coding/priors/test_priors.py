"""Priors: their densities by numerical integration, their shrinks by definition, and inference under each."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from gramian.coding import (
    METHODS,
    PRIORS,
    GroupLaplace,
    LaplacianScaleMixture,
    as_prior,
    duality_gap,
    energy,
    group_norms,
    initial_dictionary,
)
from gramian.coding.inference import fista
from gramian.errors import OptionError
from tests.cases import stiefel

LAM = 0.7
over_methods = pytest.mark.parametrize("method", (fista, lca), ids=("fista", "lca"))
over_priors = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@over_priors
def test_densities_integrate_to_one(prior) -> None:
    grid = torch.linspace(-400, 400, 400_001, dtype=torch.float64)
    lam = 0.5
    if prior is PRIORS["nonnegative"]:
        grid = torch.linspace(0, 400, 200_001, dtype=torch.float64)
    line = prior.value(grid.reshape(-1, 1, 1), lam)
    mass = torch.trapezoid(torch.exp(-line - prior.log_normalizer(1, 1, lam)), grid)
    assert mass.item() == pytest.approx(1, abs=1e-4)
    # In the plane, over radii: the mass of a ring, or of its part with both coordinates positive.
    radii = torch.linspace(0, 3000, 3_000_001, dtype=torch.float64)
    ring = 2 * math.pi * radii / (4 if prior is PRIORS["nonnegative"] else 1)
    codes = torch.stack([radii, torch.zeros_like(radii)], dim=1).reshape(-1, 1, 2)
    mass = torch.trapezoid(ring * torch.exp(-prior.value(codes, lam) - prior.log_normalizer(1, 2, lam)), radii)
    assert mass.item() == pytest.approx(1, abs=2e-3)
    assert prior.log_normalizer(5, 2, lam) == pytest.approx(5 * prior.log_normalizer(1, 2, lam))


@over_priors
def test_samples_have_the_density(prior) -> None:
    lam, n = 2.0, 3
    codes = prior.sample(200_000, 1, n, lam, generator=torch.Generator().manual_seed(0))
    assert codes.shape == (200_000, 1, n)
    lengths = group_norms(codes).flatten()
    cuts = torch.tensor([0.2, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    radii = torch.linspace(0, 4, 400_001, dtype=torch.float64)
    flat = torch.zeros(len(radii), 1, n, dtype=torch.float64)
    flat[:, 0, 0] = radii
    sphere = 4 * math.pi * radii.square() / (8 if prior is PRIORS["nonnegative"] else 1)
    density = sphere * torch.exp(-prior.value(flat, lam) - prior.log_normalizer(1, n, lam))
    for cut in cuts:
        inside = radii <= cut
        expected = torch.trapezoid(density[inside], radii[inside]).item()
        assert (lengths <= cut).double().mean().item() == pytest.approx(expected, abs=4e-3)
    if prior is PRIORS["nonnegative"]:
        assert (codes >= 0).all()
    else:
        assert codes.mean(dim=0).abs().max() < 0.02


def test_the_shrink_of_weighted_and_nonnegative_groups_is_a_prox() -> None:
    for prior in (GroupLaplace(torch.tensor([0.5, 2.0, 1.0])), GroupLaplace(nonnegative=True)):
        codes = random(20, 3, 2)
        found = prior.prox(codes, LAM)
        assert (found == 0).any()

        def objective(a: torch.Tensor, codes=codes, prior=prior) -> torch.Tensor:
            return prior.value(a, LAM) + 0.5 * (a - codes).square().flatten(1).sum(dim=1)

        for size in (1e-3, 0.1):
            for _ in range(50):
                other = found + size * random(20, 3, 2)
                if prior.nonnegative:
                    other = other.clamp_min(0)
                assert (objective(found) <= objective(other) + 1e-12).all()


@over_methods
def test_weights_are_a_scale_of_the_atoms(method) -> None:
    """w_i‖a_i‖ with Φ_i is ‖b_i‖ with Φ_i/w_i, b = wa."""
    phi, x = stiefel(16, 6, 2), random(5, 16)
    weights = torch.tensor([0.5, 1.0, 2.0, 1.5, 0.7, 1.0], dtype=torch.float64)
    codes = method(x, phi, lam=LAM, prior=GroupLaplace(weights), max_iter=20000, tol=1e-11).codes
    scaled = method(x, phi / weights[:, None], lam=LAM, max_iter=20000, tol=1e-11).codes
    torch.testing.assert_close(codes * weights[:, None], scaled, rtol=0, atol=1e-5)
    # A weight for each sample, too.
    each = weights * torch.linspace(0.8, 1.2, 5, dtype=torch.float64)[:, None]
    many = method(x, phi, lam=LAM, prior=GroupLaplace(each), max_iter=20000, tol=1e-11).codes
    last = method(x[4:], phi, lam=1.2 * LAM, prior=GroupLaplace(weights), max_iter=20000, tol=1e-11).codes
    torch.testing.assert_close(many[4:], last, rtol=0, atol=1e-5)


@over_methods
def test_nonnegative_groups_of_one_are_the_positive_lasso(method) -> None:
    phi, x = initial_dictionary(20, 30, 1, seed=1).double(), random(4, 20)
    codes = method(x, phi, lam=0.3, prior="nonnegative", max_iter=100000, tol=1e-12).codes
    lasso = Lasso(alpha=0.3 / 20, fit_intercept=False, tol=1e-12, max_iter=100000, positive=True)
    expected = np.stack([lasso.fit(phi[:, :, 0].numpy(), row.numpy()).coef_ for row in x])
    np.testing.assert_allclose(codes[:, :, 0].numpy(), expected, atol=1e-5)


@over_methods
def test_nonnegative_codes_and_their_certificate(method) -> None:
    phi, x = stiefel(16, 8, 3), random(6, 16)
    result = method(x, phi, lam=0.4, prior="nonnegative", max_iter=20000, tol=1e-9)
    assert result.converged
    assert (result.codes >= 0).all()
    assert (result.codes > 0).any()
    rough = method(x, phi, lam=0.4, prior="nonnegative", max_iter=2, tol=0.0)
    gap, total = duality_gap(x, phi, rough.codes, 0.4, PRIORS["nonnegative"])
    best = energy(x, phi, result.codes, 0.4, PRIORS["nonnegative"]).total
    assert (total - best <= gap + 1e-9).all()


class TestScaleMixture:
    def test_far_from_zero_it_is_lighter_than_laplace(self) -> None:
        codes = torch.tensor([[[0.0, 0.1]], [[3.0, 4.0]], [[300.0, 400.0]]], dtype=torch.float64)
        mixture, laplace = LaplacianScaleMixture(2.0).value(codes, 1.0), GroupLaplace().value(codes, 1.0)
        assert mixture[0] > laplace[0]
        assert mixture[2] < laplace[2]

    def test_of_a_large_shape_it_is_laplace(self) -> None:
        phi, x = stiefel(16, 6, 2), random(5, 16)
        nearly = fista(x, phi, lam=LAM, prior=LaplacianScaleMixture(1e8), tol=1e-11, max_iter=20000)
        laplace = fista(x, phi, lam=LAM, tol=1e-11, max_iter=20000)
        torch.testing.assert_close(nearly.codes, laplace.codes, rtol=0, atol=1e-5)

    def test_the_bound_touches_and_stays_above(self) -> None:
        prior = LaplacianScaleMixture(2.0)
        codes = 3 * random(30, 4, 3)
        bound = prior.majorizer(codes, LAM)
        offset = bound.value(codes, LAM) - prior.value(codes, LAM)
        for size in (0.01, 1.0, 10.0):
            other = codes + size * random(30, 4, 3)
            assert (prior.value(other, LAM) <= bound.value(other, LAM) - offset + 1e-9).all()

    @pytest.mark.slow
    @over_methods
    def test_every_round_lowers_the_energy(self, method) -> None:
        phi, x = stiefel(16, 8, 3), 3 * random(6, 16)
        values = []
        for rounds in (1, 2, 4, 8):
            prior = LaplacianScaleMixture(1.0, rounds=rounds)
            result = method(x, phi, lam=LAM, prior=prior, max_iter=2000, tol=1e-8)
            values.append(energy(x, phi, result.codes, LAM, prior).total)
        for before, after in itertools.pairwise(values):
            assert (after <= before + 1e-6).all()
        assert (values[-1] < values[0] - 1e-3).any()

    def test_fewer_and_stronger_groups(self) -> None:
        phi, x = stiefel(32, 24, 3), 3 * random(50, 32)
        laplace = group_norms(fista(x, phi, lam=1.0, tol=1e-6, max_iter=2000).codes)
        mixture = group_norms(fista(x, phi, lam=1.0, prior="scale_mixture", tol=1e-6, max_iter=2000).codes)
        assert (mixture > 0).sum() < (laplace > 0).sum()
        assert mixture[mixture > 0].mean() > laplace[laplace > 0].mean()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GroupLaplace(torch.tensor([1.0, 0.0])),
            "weights of groups must be positive and finite; got 0; try",
        ),
        (lambda: LaplacianScaleMixture(0.0), "shape must be positive and rounds at least 1; got 0 and 4"),
        (lambda: LaplacianScaleMixture(1.0, rounds=0), "got 1 and 0"),
        (
            lambda: GroupLaplace(torch.ones(2)).log_normalizer(3, 1, 1.0),
            r"weights of a density must have shape \[3\], .* got \[2\]",
        ),
        (
            lambda: as_prior("laplace"),
            "prior must be one of 'group_laplace', 'nonnegative'",
        ),
    ],
)
def test_mistakes(make, message) -> None:
    with pytest.raises(OptionError, match=message):
        make()
