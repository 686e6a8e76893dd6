"""What is specific to a prior, and inference under each."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from gramian.coding import (
    PRIORS,
    GroupL0,
    GroupLaplace,
    LaplacianScaleMixture,
    SpikeSlab,
    as_prior,
    duality_gap,
    energy,
    group_norms,
    initial_dictionary,
)
from gramian.coding.inference import fista, lca
from gramian.errors import OptionError
from tests.cases import stiefel

LAM = 0.7
over_methods = pytest.mark.parametrize("method", [fista, lca], ids=("fista", "lca"))


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


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


class TestSpikeSlab:
    def test_a_wide_slab_is_group_l0(self) -> None:
        codes = 3 * random(20, 4, 2)
        wide = SpikeSlab(scale=1e8).prox(codes, LAM)
        torch.testing.assert_close(wide, GroupL0().prox(codes, LAM), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("slab", ["gaussian", "laplace"])
    def test_rate_and_price_are_inverse(self, slab) -> None:
        prior = SpikeSlab(slab, scale=2.0)
        for n in (1, 2, 5):
            assert prior.rate(prior.price(0.07, n), n) == pytest.approx(0.07)
            groups = prior.sample(20_000, 2, n, prior.price(0.07, n), generator=torch.Generator().manual_seed(0))
            assert (group_norms(groups) > 0).double().mean().item() == pytest.approx(0.07, abs=0.006)

    def test_it_accepts_no_shrinkage_of_strong_groups(self) -> None:
        strong = torch.tensor([[[30.0, 40.0]]], dtype=torch.float64)
        assert torch.equal(GroupL0().prox(strong, 2.0), strong)
        assert group_norms(GroupLaplace().prox(strong, 2.0)).item() == pytest.approx(48)


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
        (lambda: SpikeSlab("student"), "slab must be one of 'gaussian', 'laplace'; got 'student'; for a flat slab try"),
        (lambda: SpikeSlab(scale=0.0), "scale must be positive"),
        (lambda: SpikeSlab().price(1.5, 2), "rate must be between 0 and 1; got 1.5; try rate=0.05"),
        (
            lambda: SpikeSlab(scale=0.1).price(0.9, 2),
            r"must give a positive price λ; got λ = -[\d.]+; try a smaller rate",
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
