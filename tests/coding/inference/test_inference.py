"""Inference: every method reaches the same certified optimum."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from gramian.coding import duality_gap, energy, group_norms, initial_dictionary
from gramian.coding.inference import fista, lca
from gramian.coding.synthesis.base import largest_eigenvalue
from gramian.errors import OptionError, ShapeError
from tests.cases import stiefel

over_methods = pytest.mark.parametrize("method", [fista, lca], ids=("fista", "lca"))

LAM = 0.8


def slow_optimum(x: list[float], phi: list, lam: float, sweeps: int = 20000) -> list[list[float]]:
    """Block coordinate descent on Python floats, each block by its own proximal steps."""
    length, m, n = len(phi), len(phi[0]), len(phi[0][0])
    codes = [[0.0] * n for _ in range(m)]
    rest = list(x)
    steps = [1 / max(1e-12, math.fsum(phi[p][i][j] ** 2 for p in range(length) for j in range(n))) for i in range(m)]
    for _ in range(sweeps):
        change = 0.0
        for i in range(m):
            slope = [math.fsum(phi[p][i][j] * rest[p] for p in range(length)) for j in range(n)]
            v = [codes[i][j] + steps[i] * slope[j] for j in range(n)]
            size = math.sqrt(math.fsum(c * c for c in v))
            keep = max(0.0, 1 - lam * steps[i] / size) if size else 0.0
            new = [keep * c for c in v]
            for j in range(n):
                if new[j] != codes[i][j]:
                    change = max(change, abs(new[j] - codes[i][j]))
                    for p in range(length):
                        rest[p] -= phi[p][i][j] * (new[j] - codes[i][j])
            codes[i] = new
        if change < 1e-12:
            break
    return codes


def dictionaries() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(12, 5, 2, generator=generator, dtype=torch.float64)
    near[:, :, 1] = near[:, :, 0] + 0.05 * near[:, :, 1]
    return {
        "orthonormal groups": stiefel(12, 8, 3),
        "unit atoms": initial_dictionary(12, 8, 2, seed=0).double(),
        "near-copies": near,
        "atoms of any length": torch.randn(12, 6, 2, generator=generator, dtype=torch.float64)
        * torch.logspace(-0.5, 0.5, 6, dtype=torch.float64)[:, None],
    }


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        pytest.param(kind, method, marks=[pytest.mark.slow] * (kind == "atoms of any length" and method is lca))
        for kind in dictionaries()
        for method in (fista, lca)
    ],
)
def test_the_optimum_and_its_certificate(method, kind) -> None:
    phi = dictionaries()[kind]
    x = 2 * torch.randn(3, 12, dtype=torch.float64)
    result = method(x, phi, lam=LAM, max_iter=200000, tol=1e-10)
    expected = torch.tensor([slow_optimum(row, phi.tolist(), LAM) for row in x.tolist()], dtype=torch.float64)
    best = energy(x, phi, expected, LAM).total
    reached = energy(x, phi, result.codes, LAM).total
    assert result.converged
    assert (reached <= best * (1 + 1e-9)).all()
    assert (reached - best <= result.gap + 1e-9).all()
    assert result.gap.sum() <= 1e-10 * reached.sum() * 1.01
    if kind == "orthonormal groups":
        torch.testing.assert_close(result.codes, expected, rtol=0, atol=1e-5)
    assert (result.codes != 0).any()
    # Groups that are off are exactly off: no group is merely small.
    sizes = group_norms(result.codes)
    assert (sizes[sizes != 0] > 1e-9).all()
    assert (sizes == 0).any() or kind == "atoms of any length"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_fista_and_lca_give_the_same_codes(dtype) -> None:
    phi = stiefel(32, 16, 4).to(dtype)
    x = torch.randn(20, 32, dtype=dtype)
    tol = 1e-11 if dtype == torch.float64 else 1e-6
    a, b = (method(x, phi, lam=LAM, max_iter=20000, tol=tol) for method in (fista, lca))
    assert a.converged
    assert b.converged
    torch.testing.assert_close(a.codes, b.codes, rtol=0, atol=1e-4 if dtype == torch.float64 else 5e-2)
    difference = energy(x, phi, a.codes, LAM).total - energy(x, phi, b.codes, LAM).total
    assert difference.abs().max() < 1e-4


@over_methods
def test_the_gap_bounds_the_error_at_every_stage(method) -> None:
    phi, x = stiefel(16, 12, 2), torch.randn(6, 16, dtype=torch.float64)
    best = energy(x, phi, fista(x, phi, lam=LAM, max_iter=50000, tol=1e-13).codes, LAM).total
    gaps = []
    for iterations in (1, 3, 10, 30, 100):
        result = method(x, phi, lam=LAM, max_iter=iterations, tol=0.0)
        assert result.iterations == iterations
        assert not result.converged
        error = energy(x, phi, result.codes, LAM).total - best
        assert (error <= result.gap + 1e-12).all()
        assert (result.gap >= -1e-12).all()
        gaps.append(result.gap.sum().item())
    assert gaps[-1] < 1e-2 * gaps[0]


@over_methods
def test_groups_of_one_are_the_lasso(method) -> None:
    phi = initial_dictionary(20, 30, 1, seed=1).double()
    x = torch.randn(4, 20, dtype=torch.float64)
    codes = method(x, phi, lam=0.3, max_iter=100000, tol=1e-12).codes
    lasso = Lasso(alpha=0.3 / 20, fit_intercept=False, tol=1e-12, max_iter=100000)
    expected = np.stack([lasso.fit(phi[:, :, 0].numpy(), row.numpy()).coef_ for row in x])
    np.testing.assert_allclose(codes[:, :, 0].numpy(), expected, atol=1e-5)


@over_methods
def test_beyond_the_largest_lambda_all_is_zero(method) -> None:
    phi, x = stiefel(16, 6, 3), torch.randn(5, 16, dtype=torch.float64)
    largest = group_norms((x @ phi.flatten(1)).unflatten(1, (6, 3))).max().item()
    assert not method(x, phi, lam=1.001 * largest).codes.any()
    assert method(x, phi, lam=0.9 * largest, max_iter=5000).codes.any()


@over_methods
def test_from_the_answer_it_is_soon_there(method) -> None:
    phi, x = stiefel(24, 16, 2), torch.randn(8, 24, dtype=torch.float64)
    cold = method(x, phi, lam=LAM, max_iter=20000, tol=1e-8)
    warm = method(x, phi, lam=LAM, max_iter=20000, tol=1e-8, start=cold.codes)
    assert warm.iterations <= min(20, cold.iterations)


@over_methods
def test_a_large_lambda_leaves_nothing_but_numbers(method) -> None:
    phi, x = stiefel(64, 16, 4).float(), 100 * torch.randn(8, 64)
    result = method(x, phi, lam=150.0, max_iter=5000)
    assert result.converged
    assert torch.isfinite(result.codes).all()
    assert result.codes.any()


@over_methods
@pytest.mark.parametrize("atoms", [6, 40], ids=["through the Gram matrix", "through the samples"])
def test_few_atoms_and_many(method, atoms) -> None:
    phi = initial_dictionary(16, atoms, 2, seed=0).double()
    x = torch.randn(5, 16, dtype=torch.float64)
    result = method(x, phi, lam=LAM, max_iter=100000, tol=1e-9)
    assert result.converged
    best = fista(x, phi, lam=LAM, max_iter=100000, tol=1e-12).codes
    difference = energy(x, phi, result.codes, LAM).total - energy(x, phi, best, LAM).total
    assert difference.abs().max() < 1e-7


@over_methods
def test_what_there_is_nothing_to_code_of(method) -> None:
    phi = stiefel(16, 6, 3)
    assert not method(torch.zeros(3, 16, dtype=torch.float64), phi, lam=LAM).codes.any()
    assert method(torch.zeros(0, 16, dtype=torch.float64), phi, lam=LAM).codes.shape == (0, 6, 3)
    nothing = method(torch.randn(3, 16, dtype=torch.float64), torch.zeros_like(phi), lam=LAM)
    assert not nothing.codes.any()
    assert nothing.converged


@over_methods
def test_samples_and_options_that_will_not_do(method) -> None:
    phi = stiefel(16, 6, 3)
    for x in (torch.randn(3, 15, dtype=torch.float64), torch.randn(3, 32, dtype=torch.float64)):
        with pytest.raises(ShapeError, match=r"samples must have shape \[batch, 16\], the length of an atom; got"):
            method(x, phi, lam=LAM)
    for lam in (0.0, -1.0, float("nan")):
        with pytest.raises(OptionError, match=r"lam must be positive; got .*; try"):
            method(torch.randn(3, 16, dtype=torch.float64), phi, lam=lam)


@pytest.mark.parametrize(
    "gram",
    [
        lambda: torch.block_diag(torch.ones(5, 5), 2 * torch.eye(20)),  # the heaviest entry is not the heaviest vector
        lambda: torch.diag(torch.linspace(0, 1, 50)),
        lambda: torch.cov(torch.randn(64, 16)),
        lambda: 1e30 * torch.cov(torch.randn(8, 16)),
        lambda: 1e-30 * torch.cov(torch.randn(8, 16)),
        lambda: torch.eye(7),
        lambda: torch.cov(torch.randn(2000, 250)),  # many eigenvalues near the largest
    ],
    ids=["copies", "spread", "overcomplete", "huge", "tiny", "identity", "dense"],
)
def test_the_largest_eigenvalue_is_bounded(gram) -> None:
    G = gram()
    true = torch.linalg.eigvalsh(G.double())[-1].item()
    assert true <= largest_eigenvalue(G.mv, torch.randn(len(G))) <= 1.09 * true


def test_the_gap_of_anything_is_a_bound() -> None:
    phi, x = stiefel(16, 12, 2), torch.randn(6, 16, dtype=torch.float64)
    best = energy(x, phi, fista(x, phi, lam=LAM, max_iter=50000, tol=1e-13).codes, LAM).total
    for size in (1e-3, 0.1, 1.0):
        codes = size * torch.randn(6, 12, 2, dtype=torch.float64)
        gap, total = duality_gap(x, phi, codes, LAM)
        torch.testing.assert_close(total, energy(x, phi, codes, LAM).total)
        assert (total - best <= gap + 1e-12).all()
