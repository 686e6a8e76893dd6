"""The certificate is never false: whatever is asked for, the gap is above what the energy is above its minimum."""

import math
from collections.abc import Callable

import pytest
import torch

from gramian.coding import (
    Convolution,
    GroupLaplace,
    LaplacianScaleMixture,
    Overlap,
    duality_gap,
    initial_dictionary,
)
from gramian.coding.inference import fista, lca
from gramian.coding.synthesis import Dense, Synthesis
from gramian.errors import OptionError, ShapeError
from tests.cases import stiefel

over_methods = pytest.mark.parametrize("method", [fista, lca], ids=("fista", "lca"))
over_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def dense(phi: torch.Tensor) -> tuple[Synthesis, torch.Tensor]:
    return Dense(phi), 3 * torch.randn(5, phi.shape[0], dtype=torch.float64)


def near_copies() -> torch.Tensor:
    phi = torch.randn(12, 7, 2, dtype=torch.float64)
    phi[:, :, 1] = phi[:, :, 0] + 1e-3 * phi[:, :, 1]
    return phi


def unequal_lengths() -> torch.Tensor:
    return torch.randn(12, 6, 2, dtype=torch.float64) * torch.logspace(-2, 1, 6, dtype=torch.float64)[:, None]


def convolution() -> tuple[Synthesis, torch.Tensor]:
    weight = torch.randn(6, 1, 3, 3, dtype=torch.float64) / 3
    return Convolution(weight, group_size=2, stride=2), torch.randn(4, 1, 9, 11, dtype=torch.float64)


MAPS = {
    "orthonormal groups": lambda: dense(stiefel(12, 8, 3)),
    "unit atoms": lambda: dense(initial_dictionary(12, 30, 1, seed=0).double()),
    "near-copies": lambda: dense(near_copies()),
    "unequal lengths": lambda: dense(unequal_lengths()),
    "one atom": lambda: dense(torch.randn(12, 1, 1, dtype=torch.float64)),
    "overlapping groups": lambda: dense(Overlap.ring(12, size=4, step=2).expand(torch.randn(12, 12).double())),
    "convolution": convolution,
}

PRIORS = {
    "plain": lambda m: GroupLaplace(),
    "nonnegative": lambda m: GroupLaplace(nonnegative=True),
    "weighted": lambda m: GroupLaplace(torch.logspace(-1, 1, m, dtype=torch.float64)),
    "weighted, nonnegative": lambda m: GroupLaplace(torch.logspace(-1, 1, m, dtype=torch.float64), nonnegative=True),
}


def like(synthesis: Synthesis, dtype: torch.dtype) -> Synthesis:
    if isinstance(synthesis, Convolution):
        return Convolution(synthesis.weight.to(dtype), synthesis.groups[1], synthesis.stride)
    assert isinstance(synthesis, Dense)
    return Dense(synthesis.phi.to(dtype))


def excess(synthesis, x, lam, prior) -> Callable[[torch.Tensor], torch.Tensor]:
    """By how much codes are above what a long run in float64 reaches, which is no less than the minimum."""
    wide, x = like(synthesis, torch.float64), x.double()

    def energy(each: torch.Tensor) -> torch.Tensor:
        rest = (x - wide.synthesise(each)).flatten(1).square().sum(dim=1)
        return 0.5 * rest + prior.value(each, lam)

    best = energy(fista(x, wide, lam=lam, prior=prior, max_iter=400, tol=1e-9).codes)
    return lambda codes: energy(codes.double()) - best


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", MAPS)
def test_the_gap_is_a_bound(kind, prior) -> None:
    synthesis, x = MAPS[kind]()
    narrow = like(synthesis, torch.float32)
    chosen, lam = PRIORS[prior](narrow.zeros(x.float()).shape[1]), 0.2
    above = excess(narrow, x.float(), lam, chosen)
    for dtype in (torch.float64, torch.float32):
        seen, given = like(narrow, dtype), x.float().to(dtype)
        for method in (fista, lca):
            for max_iter in (0, 1, 20):
                found = method(given, seen, lam=lam, prior=chosen, max_iter=max_iter, tol=0.0)
                assert found.iterations == max_iter
                assert found.gap.isfinite().all()
                assert (found.gap >= above(found.codes)).all()


@over_methods
@pytest.mark.parametrize("kind", MAPS)
def test_without_an_iteration_it_is_that_of_the_start(method, kind) -> None:
    synthesis, x = MAPS[kind]()
    found = method(x, synthesis, lam=0.1, max_iter=0)
    assert (found.iterations, found.converged) == (0, False)
    assert not found.codes.any()
    torch.testing.assert_close(found.gap, duality_gap(x, synthesis, found.codes, 0.1)[0])
    best = method(x, synthesis, lam=0.1, max_iter=50)
    warm = method(x, synthesis, lam=0.1, max_iter=0, start=best.codes)
    assert torch.equal(warm.codes, best.codes)
    assert warm.converged == best.converged
    assert method(x, synthesis, lam=0.1, max_iter=0, tol=None).gap.isinf().all()


@over_dtypes
def test_codes_from_far_away(dtype) -> None:
    """Coefficients that cancel leave more rounding than the samples have."""
    phi = near_copies().to(dtype)
    x = torch.randn(20, 12, dtype=dtype)
    for size in (1.0, 1e3, 1e5):
        codes = size * torch.randn(20, 7, 2, dtype=dtype)
        codes[:, :, 1] = -codes[:, :, 0]
        gap, _ = duality_gap(x, phi, codes, 0.3)
        assert (gap >= excess(Dense(phi), x, 0.3, GroupLaplace())(codes)).all()


@over_methods
def test_rounding_is_part_of_it(method) -> None:
    """At the end of the numbers of float32 the gap says what they cannot tell."""
    phi = stiefel(64, 24, 4).float()
    x = 100 * torch.randn(8, 64)
    for lam in (1e-3, 30.0):
        found = method(x, phi, lam=lam, max_iter=300, tol=0.0)
        error = excess(Dense(phi), x, lam, GroupLaplace())(found.codes)
        assert (found.gap >= error).all()
        assert (found.gap > 0).all()


@over_methods
def test_what_a_prior_does_not_allow_has_no_bound(method) -> None:
    phi, x = stiefel(12, 8, 3), torch.randn(3, 12, dtype=torch.float64)
    prior = GroupLaplace(nonnegative=True)
    start = torch.ones(3, 8, 3, dtype=torch.float64)
    start[1, 0, 0] = -1
    found = method(x, phi, lam=0.5, prior=prior, max_iter=0, start=start)
    assert found.gap.isinf().tolist() == [False, True, False]
    assert prior.value(start, 0.5).isinf().tolist() == [False, True, False]
    assert method(x, phi, lam=0.5, prior=prior, start=start, max_iter=2000, tol=1e-2).converged


@over_methods
@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e200])
def test_samples_that_are_not_finite(method, wrong) -> None:
    phi, x = stiefel(12, 8, 3), torch.randn(3, 12, dtype=torch.float64)
    x[1, 4] = wrong
    for tol, max_iter in ((1e-2, 100), (0.0, 20), (1e-4, 0)):
        found = method(x, phi, lam=0.5, max_iter=max_iter, tol=tol)
        assert not found.converged
        assert found.gap.isinf().tolist() == [False, True, False]


@over_methods
def test_a_dictionary_that_is_not_finite(method) -> None:
    phi, x = stiefel(12, 8, 3), torch.randn(3, 12, dtype=torch.float64)
    phi[3, 2, 1] = math.nan
    with pytest.raises(OptionError, match="atoms must be finite"):
        method(x, phi, lam=0.5)


@over_methods
def test_no_samples(method) -> None:
    phi = stiefel(12, 8, 3)
    for tol, max_iter in ((1e-4, 50), (0.0, 5), (1e-4, 0), (None, 3)):
        found = method(torch.zeros(0, 12, dtype=torch.float64), phi, lam=0.5, max_iter=max_iter, tol=tol)
        assert found.codes.shape == (0, 8, 3)
        assert found.gap.shape == (0,)


@over_methods
def test_the_last_round_of_a_scale_mixture(method) -> None:
    """Its certificate is that of the last group Laplace prior, whatever the number of iterations."""
    phi, x = stiefel(12, 8, 3), 2 * torch.randn(6, 12, dtype=torch.float64)
    prior = LaplacianScaleMixture(rounds=2)
    for max_iter in (0, 3, 50):
        found = method(x, phi, lam=0.5, prior=prior, max_iter=max_iter, tol=0.0)
        before = method(x, phi, lam=0.5, max_iter=max_iter, tol=0.0).codes
        last = prior.majorizer(before, 0.5)
        assert (found.gap >= excess(Dense(phi), x, 0.5, last)(found.codes)).all()


@over_methods
def test_a_scale_mixture_in_a_convolution(method) -> None:
    synthesis, x = convolution()
    found = method(x, synthesis, lam=0.3, prior="scale_mixture", max_iter=2000, tol=1e-2)
    assert found.codes.shape == synthesis.zeros(x).shape
    assert found.converged
    weights = torch.rand(4, 3, dtype=torch.float64) + 0.5
    assert method(x, synthesis, lam=0.3, prior=GroupLaplace(weights), max_iter=2000, tol=1e-2).converged


@over_methods
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iter": -1}, "max_iter must be at least 0; got -1"),
        ({"max_iter": 2.5}, "max_iter must be a whole number; got 2.5"),
        ({"max_iter": True}, "max_iter must be a whole number; got True"),
        ({"tol": -1e-4}, "tol must be 0 or positive; got -0.0001; try tol=1e-4"),
        ({"tol": math.nan}, "tol must be 0 or positive; got nan"),
        ({"tol": "1e-4"}, "tol must be a number; got '1e-4'"),
        ({"lam": math.inf}, "lam must be finite; got inf"),
        ({"lam": "2"}, "lam must be a number; got '2'; try lam=1.0"),
        ({"prior": GroupLaplace(torch.ones(7))}, r"weights must have shape \[8\], one for each group, .* got \[7\]"),
    ],
)
def test_invalid_options(method, options, message) -> None:
    with pytest.raises(OptionError, match=message):
        method(torch.randn(3, 12, dtype=torch.float64), stiefel(12, 8, 3), **{"lam": 0.5, **options})


def test_invalid_starts_and_weights() -> None:
    x = torch.randn(3, 12, dtype=torch.float64)
    with pytest.raises(ShapeError, match=r"codes to start from must have shape \[3, 8, 3\]; got \[3, 8, 2\]"):
        lca(x, stiefel(12, 8, 3), lam=0.5, start=torch.zeros(3, 8, 2))
    with pytest.raises(OptionError, match="weights of groups must be positive and finite; got inf"):
        GroupLaplace(torch.tensor([1.0, math.inf]))
    with pytest.raises(OptionError, match="lam must be positive"):
        duality_gap(x, stiefel(12, 8, 3), torch.zeros(3, 8, 3, dtype=torch.float64), 0.0)
