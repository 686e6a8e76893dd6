"""The estimate of the spectral norm: its bounds, where it is exact, and what it does with NaN and with nothing."""

import math

import pytest
import torch
from torch import Tensor

from gramian.kernels.norms import spectral_norm

SIZES = (1, 2, 3, 8, 15, 16, 17, 18, 33, 100)
SCALES = (1e-8, 1.0, 1e8)


def path(n: int) -> Tensor:
    M = torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
    return M + M.mT


def star(n: int) -> Tensor:
    """One row of ones: its row sum is √n above its norm."""
    M = torch.zeros(n, n, dtype=torch.float64)
    M[0] = M[:, 0] = 1
    return M


def hidden(n: int) -> Tensor:
    """A heavy block of random signs beside one large number, which no power step from the heavy column can see."""
    signs = torch.randint(0, 2, (n - 1, n - 1)).double() * 2 - 1
    M = torch.zeros(n, n, dtype=torch.float64)
    M[1:, 1:] = torch.triu(signs, 1) + torch.triu(signs, 1).mT
    M[0, 0] = n - 2.5 if n > 2 else 0.0
    return M


def rank_one(v: Tensor) -> Tensor:
    return v @ v.mT


FAMILIES = {
    "random": lambda n: torch.randn(3, n, n, dtype=torch.float64),
    "gram": lambda n: torch.randn(3, 2 * n, n, dtype=torch.float64),
    "random signs": lambda n: torch.randint(0, 2, (3, n, n)).double() * 2 - 1,
    "rank one": lambda n: rank_one(torch.randn(3, n, 1, dtype=torch.float64)),
    "all ones": lambda n: torch.ones(1, n, n, dtype=torch.float64),
    "diagonal": lambda n: torch.diag(torch.randn(n, dtype=torch.float64))[None],
    "plus and minus": lambda n: torch.diag((-1.0) ** torch.arange(n).double())[None],
    "path": lambda n: path(n)[None],
    "star": lambda n: star(n)[None],
    "hidden": lambda n: hidden(n)[None],
}


def matrices(family: str, n: int) -> Tensor:
    M = FAMILIES[family](n)
    return M.mT @ M if family == "gram" else (torch.triu(M) + torch.triu(M, 1).mT)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_bounds(family, n, dtype) -> None:
    one = matrices(family, n).to(dtype)
    exact_one = torch.linalg.eigvalsh(one.double()).abs().amax(dim=1)
    for scale in SCALES:
        M, exact = scale * one, scale * exact_one
        estimate = spectral_norm(M).double()
        row_sum = M.double().abs().sum(dim=2).amax(dim=1)
        slack = 1 + 50 * torch.finfo(dtype).eps
        assert estimate.shape == M.shape[:1]
        assert (estimate <= row_sum * slack).all()
        assert (estimate * slack >= row_sum / math.sqrt(n)).all()
        assert (estimate * slack >= exact / math.sqrt(n)).all()
        if n <= 16:
            assert (estimate * slack >= exact).all()
            torch.testing.assert_close(estimate, row_sum, rtol=50 * torch.finfo(dtype).eps, atol=0)
        else:
            assert (estimate <= exact * slack).all()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_exact_on_multiples_of_the_identity(n, dtype) -> None:
    factors = torch.tensor([1.0, -1.0, 0.25, 3.0, -1e8, 1e-8], dtype=dtype)
    M = factors[:, None, None] * torch.eye(n, dtype=dtype)
    torch.testing.assert_close(spectral_norm(M), factors.abs(), rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("n", [17, 64, 200])
def test_close_for_the_matrices_that_occur(n) -> None:
    # Far better than the row sums, which are √n above the norm of a random matrix.
    M = matrices("random", n)
    exact = torch.linalg.matrix_norm(M, 2)
    assert (spectral_norm(M) >= 0.5 * exact).all()
    assert (M.abs().sum(dim=2).amax(dim=1) >= 1.5 * exact).all()
    G = matrices("gram", n)
    assert (spectral_norm(G) >= 0.7 * torch.linalg.matrix_norm(G, 2)).all()


@pytest.mark.parametrize("n", SIZES)
def test_zero(n) -> None:
    assert torch.equal(spectral_norm(torch.zeros(2, n, n)), torch.zeros(2))


@pytest.mark.parametrize("n", [1, 16, 17, 40])
@pytest.mark.parametrize("where", [(0, 0), (-1, 0), (-1, -1)], ids=str)
def test_not_a_number_stays_in_its_matrix(n, where) -> None:
    M = matrices("gram", n)
    clean = spectral_norm(M)
    M[1][where] = M[1].mT[where] = math.nan
    estimate = spectral_norm(M)
    assert estimate.isnan().tolist() == [False, True, False]
    assert torch.equal(estimate[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("n", [1, 16, 17, 40])
def test_an_infinite_entry_is_not_a_finite_norm(n) -> None:
    M = matrices("gram", n)
    M[1, 0, 0] = math.inf
    assert spectral_norm(M).isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("n", [1, 16, 17])
def test_no_groups(n) -> None:
    assert spectral_norm(torch.empty(0, n, n)).shape == (0,)


@pytest.mark.parametrize("n", [5, 30])
def test_each_matrix_by_itself_and_none_written_to(n) -> None:
    M = matrices("random", n)
    before, version = M.clone(), M._version
    together = spectral_norm(M)
    torch.testing.assert_close(together, torch.cat([spectral_norm(each[None]) for each in M]))
    assert torch.equal(M, before)
    assert M._version == version


@pytest.mark.parametrize("n", [5, 30])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(n, dtype) -> None:
    M = matrices("random", n).float()
    with torch.autocast("cpu", dtype=dtype):
        inside = spectral_norm(M)
    assert torch.equal(inside, spectral_norm(M))
