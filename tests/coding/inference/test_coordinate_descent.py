"""Coordinate descent reaches the energy of FISTA for every prior, shape and start; where it cannot run, FISTA does."""

import importlib.util
import math
import os
import subprocess
import sys

import pytest
import torch

from gramian.coding import GroupLaplace, LaplacianScaleMixture, duality_gap, energy, initial_dictionary
from gramian.coding.inference import fista
from gramian.coding.inference.coordinate_descent import coordinate_descent, fallback_reason
from gramian.coding.synthesis import Convolution
from gramian.kernels.cpu import threads
from tests.cases import stiefel

MODULE = "gramian.coding.inference.coordinate_descent"

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs Numba")
DTYPES = [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)]
"""Compiling the loops for one dtype takes many seconds."""
over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def copies() -> torch.Tensor:
    phi = initial_dictionary(16, 20, 1, seed=0).double()
    return torch.cat([phi, phi[:, :7], -phi[:, 3:9]], dim=1)


def with_zeros() -> torch.Tensor:
    phi = torch.randn(16, 9, 2, dtype=torch.float64)
    phi[:, 4] = 0
    phi[:, 6, 1] = 0
    return phi


def collapsed() -> torch.Tensor:
    phi = torch.randn(16, 9, 3, dtype=torch.float64)
    phi[:, :, 2] = phi[:, :, 1]
    return phi


DICTIONARIES = {
    "single atoms": lambda: initial_dictionary(16, 40, 1, seed=0).double(),
    "orthonormal groups": lambda: stiefel(16, 12, 4),
    "more groups than a block": lambda: stiefel(16, 75, 2),
    "groups of any atoms": lambda: torch.randn(16, 9, 3, dtype=torch.float64),
    "copies of atoms": copies,
    "groups that collapsed": collapsed,
    "atoms and groups of zeros": with_zeros,
    "one atom": lambda: torch.randn(16, 1, 1, dtype=torch.float64),
    "fewer atoms than numbers": lambda: initial_dictionary(64, 10, 2, seed=0).double(),
}

PRIORS = {
    "plain": lambda batch, m: GroupLaplace(),
    "nonnegative": lambda batch, m: GroupLaplace(nonnegative=True),
    "weights of groups": lambda batch, m: GroupLaplace(torch.logspace(-0.5, 0.5, m, dtype=torch.float64)),
    "weights of samples": lambda batch, m: GroupLaplace(torch.rand(batch, m) + 0.2, nonnegative=True),
}


@needs_numba
@over_dtypes
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", DICTIONARIES)
def test_the_energy_is_that_of_fista(kind, prior, dtype) -> None:
    phi = DICTIONARIES[kind]().float().double()
    x = 3 * torch.randn(6, phi.shape[0]).double()
    chosen, lam = PRIORS[prior](6, phi.shape[1]), 0.4
    expected = fista(x, phi, lam=lam, prior=chosen, max_iter=5000, tol=1e-7)
    best = energy(x, phi, expected.codes, lam, chosen).total
    start = torch.randn(6, *phi.shape[1:], dtype=torch.float64) * (torch.rand(6, phi.shape[1], 1) < 0.3)
    start = start.abs() if prior == "nonnegative" else start
    tol = 1e-8 if dtype == torch.float64 else 1e-4
    given, atoms = x.to(dtype), phi.to(dtype)
    assert fallback_reason(given, atoms) is None
    floor = duality_gap(given, atoms, expected.codes.to(dtype), lam, chosen)[0]  # mostly of rounding
    allowed = 1.01 * tol * best + 3 * floor
    for initial in (None, start.to(dtype)):
        result = coordinate_descent(given, atoms, lam=lam, prior=chosen, tol=tol, start=initial)
        assert result.converged
        assert result.codes.dtype == result.gap.dtype == dtype
        total = energy(x, phi, result.codes.double(), lam, chosen).total
        assert (total <= best * (1 + tol) + result.gap).all()
        assert (total - result.gap <= best).all()
        assert (result.gap <= allowed).all()
        independent, _ = duality_gap(given, atoms, result.codes, lam, chosen)
        assert (independent <= allowed).all()


@needs_numba
@over_dtypes
@pytest.mark.parametrize("batch", [3, 200])
def test_the_certificate_is_that_of_the_other_methods(dtype, batch) -> None:
    """With the Gram matrix of all atoms and without: the first is for many samples."""
    phi = stiefel(32, 40, 3).to(dtype)
    x = 2 * torch.randn(batch, 32, dtype=dtype)
    result = coordinate_descent(x, phi, lam=0.5)
    assert result.converged
    gap, total = duality_gap(x, phi, result.codes, 0.5)
    eps = torch.finfo(dtype).eps
    assert ((result.gap - gap).abs() <= 1000 * eps * (total + x.square().sum(dim=1))).all()
    assert (gap <= 1.01e-4 * total + 1000 * eps * total).all()


@needs_numba
@over_dtypes
@pytest.mark.parametrize("with_gram", [True, False])
def test_a_sample_does_not_depend_on_the_batch(dtype, with_gram, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[MODULE], "_SAMPLES_PER_GRAM", 0 if with_gram else math.inf)
    phi = initial_dictionary(33, 520, 1, seed=0).to(dtype)
    x = 2 * torch.randn(70, 33, dtype=dtype)
    together = coordinate_descent(x, phi, lam=0.5)
    backwards = coordinate_descent(x.flip(0), phi, lam=0.5)
    alone = [coordinate_descent(row[None], phi, lam=0.5) for row in x]
    assert torch.equal(backwards.codes.flip(0), together.codes)
    assert torch.equal(backwards.gap.flip(0), together.gap)
    assert torch.equal(torch.cat([result.codes for result in alone]), together.codes)
    assert torch.equal(torch.cat([result.gap for result in alone]), together.gap)
    assert together.iterations == max(result.iterations for result in alone)


@needs_numba
@over_dtypes
def test_with_and_without_the_gram_matrix_of_all_atoms(dtype, monkeypatch) -> None:
    phi, x = stiefel(33, 40, 3).to(dtype), 2 * torch.randn(20, 33, dtype=dtype)
    codes = []
    for samples_per_atom in (0, math.inf):
        monkeypatch.setattr(sys.modules[MODULE], "_SAMPLES_PER_GRAM", samples_per_atom)
        codes.append(coordinate_descent(x, phi, lam=0.5, tol=1e-4 if dtype == torch.float32 else 1e-9).codes)
    assert not torch.equal(*codes)
    torch.testing.assert_close(*codes, rtol=0, atol=0.1 if dtype == torch.float32 else 1e-3)


@needs_numba
def test_the_number_of_threads_changes_nothing(monkeypatch) -> None:
    phi, x = stiefel(32, 40, 3), 2 * torch.randn(64, 32, dtype=torch.float64)
    one = coordinate_descent(x, phi, lam=0.5)
    monkeypatch.setattr(threads, "_LEAST", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    two = coordinate_descent(x, phi, lam=0.5)
    assert torch.equal(one.codes, two.codes)
    assert torch.equal(one.gap, two.gap)


@needs_numba
@over_dtypes
def test_hostile_samples_leave_the_others_alone(dtype) -> None:
    phi, x = stiefel(32, 40, 3).to(dtype), 2 * torch.randn(9, 32, dtype=dtype)
    alone = coordinate_descent(x[[1, 7]], phi, lam=0.5)
    x[0, 3], x[2], x[3], x[4, 0] = math.nan, math.inf, 0, torch.finfo(dtype).max
    x[5], x[6] = 1e-30, 1e3
    result = coordinate_descent(x, phi, lam=0.5)
    assert not result.converged
    assert result.gap.isinf().tolist() == [True, False, True, False, True, False, False, False, False]
    assert result.codes[[0, 2, 4]].isnan().all()
    assert not result.codes[[3, 5]].any()
    torch.testing.assert_close(result.codes[[1, 7]], alone.codes, rtol=0, atol=1e-3)
    finite = result.gap.isfinite()
    allowed = 1.01e-4 * energy(x, phi, result.codes, 0.5).total + 50 * torch.finfo(dtype).eps * x.square().sum(dim=1)
    assert (result.gap <= allowed)[finite].all()


@needs_numba
def test_samples_and_starts_are_not_changed() -> None:
    phi, x = stiefel(16, 8, 2), torch.randn(4, 16, dtype=torch.float64)
    start = torch.randn(4, 8, 2, dtype=torch.float64)
    copies = phi.clone(), x.clone(), start.clone()
    for prior in ("group_laplace", "scale_mixture"):
        coordinate_descent(x, phi, lam=0.3, prior=prior, start=start)
        coordinate_descent(x, phi, lam=0.3, prior=prior, start=start.mT.contiguous().mT)
    assert all(torch.equal(a, b) for a, b in zip(copies, (phi, x, start), strict=True))
    phi.requires_grad_()
    assert not coordinate_descent(x, phi, lam=0.3).codes.requires_grad


@needs_numba
def test_rounds_of_a_scale_mixture() -> None:
    """Each round has the weights of the codes before, and ends at the codes that FISTA has."""
    phi, x = stiefel(24, 16, 2), 3 * torch.randn(5, 24, dtype=torch.float64)
    prior = LaplacianScaleMixture(rounds=3)
    ours = coordinate_descent(x, phi, lam=0.5, prior=prior, tol=1e-10)
    theirs = fista(x, phi, lam=0.5, prior=prior, tol=1e-10, max_iter=20000)
    torch.testing.assert_close(ours.codes, theirs.codes, rtol=0, atol=1e-4)


def test_where_it_cannot_run_fista_does(monkeypatch) -> None:
    phi, x = stiefel(16, 8, 2), torch.randn(4, 16, dtype=torch.float64)
    convolution = Convolution(torch.randn(6, 1, 3, 3, dtype=torch.float64) / 3, group_size=2, stride=2)
    image = torch.randn(2, 1, 9, 11, dtype=torch.float64)
    assert fallback_reason(image, convolution) == "the synthesis must be that of a matrix; got Convolution"
    assert "must have the same dtype" in str(fallback_reason(x.float(), phi))
    assert "must be on a CPU; got meta" in str(fallback_reason(x.to("meta"), phi))
    assert fallback_reason(x, phi[:, :0]) == "there are no atoms"
    assert torch.equal(coordinate_descent(image, convolution, lam=0.3).codes, fista(image, convolution, lam=0.3).codes)
    monkeypatch.setattr(sys.modules[MODULE], "_INSTALLED", False)
    assert fallback_reason(x, phi) == "Numba is not installed; try pip install 'gramian[fast]'"
    result, expected = coordinate_descent(x, phi, lam=0.3), fista(x, phi, lam=0.3)
    assert torch.equal(result.codes, expected.codes)
    assert result.iterations == expected.iterations


@needs_numba
def test_the_loops_contain_what_they_call() -> None:
    from gramian.coding.inference.loops import descent, vectors, working_set

    for module in (descent, vectors, working_set):
        for name, function in vars(module).items():
            if hasattr(function, "targetoptions"):
                assert function.targetoptions["forceinline"] == (name not in ("descend", "multiply")), name


SOLVE = """
import hashlib, torch
from gramian.coding.inference.coordinate_descent import coordinate_descent
torch.set_num_threads(1)
x, phi = (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) for shape in ((64, 256), (256, 64, 4)))
codes = coordinate_descent(x, phi / 16, lam=0.5, tol=1e-4).codes
print(hashlib.sha1(codes.numpy().tobytes()).hexdigest())
"""


@needs_numba
@pytest.mark.slow
def test_the_process_that_fills_the_cache_computes_the_same_bits(tmp_path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    found = [
        subprocess.run(
            [sys.executable, "-c", SOLVE], env=environment | {"NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True,
            text=True, check=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert any(tmp_path.rglob("*.nbc"))
    assert found[0] == found[1]
