"""The penalty family: each value, dual and shrink against the oracle, and the laws of convexity and of the prox."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties import L1, PENALTIES, ElementwisePenalty, Huber, Penalty, SquaredFrobenius, as_penalty
from tests.cases import PENALTY_CASES, over_draws, over_dtypes, over_penalties

TAUS = (0.0, 1e-3, 0.1, 0.7, 5.0, math.inf)
KINKS = (0.0, -0.0, 0.1, -0.1, 2.0, -2.0, 0.7, -0.7, 0.8, -0.8, 2.7, -2.7)
"""Where the table's functions bend: 0, ±δ, ±τ and ±(τ + δ) for δ = 0.1 and 2, τ = 0.7."""

over_taus = pytest.mark.parametrize("tau", TAUS)


def symmetric(*shape: int, scale: float = 1.0) -> Tensor:
    X = scale * torch.randn(shape, dtype=torch.float64)
    return (X + X.mT) / 2


def residuals() -> list[Tensor]:
    """Symmetric matrices of three scales, one with every entry at a kink, one of no vectors correlated, and zero."""
    rows, columns = torch.triu_indices(5, 5)
    kinked = torch.zeros(5, 5, dtype=torch.float64)
    kinked[rows, columns] = torch.tensor(KINKS + KINKS[:3], dtype=torch.float64)
    kinked = torch.triu(kinked) + torch.triu(kinked, 1).mT
    random = [symmetric(n, n, scale=scale) for n in (1, 2, 4) for scale in (0.05, 1.0, 20.0)]
    return [*random, kinked, torch.diag(torch.tensor([-1.0, 0.0, 3.0]).double()), torch.zeros(3, 3).double()]


def number(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=torch.float64)


def close(got: Tensor, expected) -> None:
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=got.dtype), rtol=1e-12, atol=1e-13)


@over_penalties
class TestAgainstTheOracle:
    def test_value_and_dual(self, case) -> None:
        for X in residuals():
            close(case.penalty.value(X), case.value(X.tolist()))
            close(case.penalty.dual(X), case.dual(X.tolist()))

    @over_taus
    def test_shrink_is_what_the_prox_takes_away(self, case, tau) -> None:
        for X in residuals():
            prox = torch.tensor(case.prox(X.tolist(), tau), dtype=torch.float64)
            close(case.penalty.shrink(X, number(tau)), X - prox)


@st.composite
def problems(draw) -> tuple[Tensor, Tensor, float]:
    """X, another matrix Z, and τ: entries from the kinks and from anywhere."""
    n = draw(st.integers(1, 4))
    entries = st.one_of(st.sampled_from(KINKS), st.floats(-1e3, 1e3, allow_subnormal=False))

    def matrix() -> Tensor:
        X = torch.tensor(draw(st.lists(entries, min_size=n * n, max_size=n * n)), dtype=torch.float64).view(n, n)
        return torch.triu(X) + torch.triu(X, 1).mT

    return matrix(), matrix(), draw(st.sampled_from(TAUS[1:-1]) | st.floats(1e-3, 1e3))


@over_penalties
class TestLawsOfTheProx:
    @given(problem=problems())
    def test_the_prox_is_the_minimiser(self, case, problem) -> None:
        # τμ + ½‖· − X‖² is strongly convex: away from its minimiser Y it grows by at least ½‖Z − Y‖².
        X, Z, tau = problem
        Y = X - case.penalty.shrink(X, number(tau))
        for other in (Z, (Y + Z) / 2, Y + 1e-3 * (Z - Y), X, 0 * X):
            least, there = (tau * case.penalty.value(A) + (A - X).square().sum() / 2 for A in (Y, other))
            assert least + (other - Y).square().sum() / 2 <= there + 1e-10 * (1 + there)

    @given(problem=problems())
    def test_the_shrink_is_a_subgradient_at_the_prox(self, case, problem) -> None:
        X, Z, tau = problem
        C = case.penalty.shrink(X, number(tau))
        Y = X - C
        below = case.penalty.value(Y) + (C / tau * (Z - Y)).sum()
        assert case.penalty.value(Z) >= below - 1e-9 * (1 + below.abs() + (C / tau * Z).abs().sum())

    @given(problem=problems())
    def test_the_shrink_is_firmly_nonexpansive(self, case, problem) -> None:
        X, Z, tau = problem
        difference = case.penalty.shrink(X, number(tau)) - case.penalty.shrink(Z, number(tau))
        assert difference.square().sum() <= (difference * (X - Z)).sum() + 1e-9 * (1 + (X - Z).square().sum())

    @given(problem=problems())
    def test_the_dual_is_a_subgradient(self, case, problem) -> None:
        X, Z, _ = problem
        below = case.penalty.value(X) + (case.penalty.dual(X) * (Z - X)).sum()
        assert case.penalty.value(Z) >= below - 1e-9 * (1 + below.abs() + (case.penalty.dual(X) * Z).abs().sum())

    @given(problem=problems())
    def test_it_moves_towards_zero_and_not_past_it(self, case, problem) -> None:
        X, _, tau = problem
        C = case.penalty.shrink(X, number(tau))
        assert (C * X >= 0).all()
        assert (C.abs() <= X.abs()).all()
        assert (C[X != 0] != 0).all()

    def test_without_a_length_nothing_is_taken_and_without_bound_everything(self, case) -> None:
        for X in residuals():
            assert torch.equal(case.penalty.shrink(X, number(0.0)), torch.zeros_like(X))
            assert torch.equal(case.penalty.shrink(X, number(math.inf)), X)
            assert torch.equal(case.penalty.shrink(X.float(), number(math.inf).float()), X.float())

    def test_more_is_taken_for_a_larger_length(self, case) -> None:
        for X in residuals():
            taken = torch.stack([case.penalty.shrink(X, number(tau)).abs() for tau in TAUS])
            assert (taken.diff(dim=0) >= 0).all()

    def test_a_tiny_length_loses_no_digits(self, case) -> None:
        # To first order the shrink is τG, where the penalty has no kink.
        X = symmetric(4, 4).add(torch.full((4, 4), 5.0).double()).float()
        C = case.penalty.shrink(X, torch.tensor(1e-20))
        torch.testing.assert_close(C / 1e-20, case.penalty.dual(X), rtol=1e-6, atol=0)


@over_penalties
class TestValueAndDual:
    def test_least_at_zero(self, case) -> None:
        zero = torch.zeros(3, 3, dtype=torch.float64)
        assert case.penalty.value(zero) == 0
        assert not case.penalty.dual(zero).any()
        assert all(case.penalty.value(X) > 0 for X in residuals() if X.any())

    @over_draws
    def test_homogeneous(self, case, draw) -> None:
        X = symmetric(2, 4, 4)
        value = case.penalty.value(X)
        if case.degree is None:
            # Huber is quadratic near zero and linear far from it: no one degree.
            near, far = (case.penalty.value(2 * c * X) / case.penalty.value(c * X) for c in (1e-6, 1e6))
            torch.testing.assert_close(near, torch.full_like(near, 4.0))
            torch.testing.assert_close(far, torch.full_like(far, 2.0), rtol=1e-4, atol=0)
            return
        torch.testing.assert_close((case.penalty.dual(X) * X).sum(dim=(1, 2)), case.degree * value)  # Euler's identity
        for c in (0.125, 3.0, 100.0):
            torch.testing.assert_close(case.penalty.value(c * X), c**case.degree * value)
            moved = case.penalty.shrink(c * X, number(0.3))
            torch.testing.assert_close(moved, c * case.penalty.shrink(X, number(0.3 * c ** (case.degree - 2))))

    def test_the_dual_is_the_slope_where_there_is_one(self, case) -> None:
        for X in residuals()[:9]:
            leaf = X.clone().requires_grad_()
            (slope,) = torch.autograd.grad(case.penalty.value(leaf), leaf)
            torch.testing.assert_close(case.penalty.dual(X), slope)

    def test_even(self, case) -> None:
        for X in residuals():
            assert torch.equal(case.penalty.value(-X), case.penalty.value(X))
            assert torch.equal(case.penalty.dual(-X), -case.penalty.dual(X))
            assert torch.equal(case.penalty.shrink(-X, number(0.7)), -case.penalty.shrink(X, number(0.7)))

    def test_large_entries_do_not_overflow_where_the_value_does_not(self, case) -> None:
        X = torch.full((2, 2), 1e30 if case.degree != 2 else 1e18)
        assert case.penalty.value(X).isfinite()
        assert case.penalty.dual(X).isfinite().all()
        assert case.penalty.shrink(X, torch.tensor(1.0)).isfinite().all()


@over_penalties
class TestForm:
    @over_dtypes
    @pytest.mark.parametrize("leading", [(), (3,), (2, 3), (0,)], ids=str)
    @pytest.mark.parametrize("n", [0, 1, 4])
    def test_dtype_and_shape(self, case, dtype, leading, n) -> None:
        X = symmetric(*leading, n, n).to(dtype)
        tau = torch.tensor(0.5, dtype=dtype)
        for C in (
            case.penalty.dual(X),
            case.penalty.shrink(X, tau),
            case.penalty.shrink(X, tau.expand(*leading, 1, 1)),
        ):
            assert C.dtype == dtype
            assert C.shape == X.shape
            assert torch.equal(C, C.mT)
        value = case.penalty.value(X)
        assert value.dtype == dtype
        assert value.shape == leading

    def test_each_matrix_by_itself(self, case) -> None:
        X = symmetric(4, 3, 3)
        tau = torch.tensor([0.0, 0.2, 1.5, math.inf], dtype=torch.float64)
        C = case.penalty.shrink(X, tau[:, None, None])
        for i in range(4):
            assert torch.equal(C[i], case.penalty.shrink(X[i], tau[i]))
            assert torch.equal(case.penalty.dual(X)[i], case.penalty.dual(X[i]))
            torch.testing.assert_close(case.penalty.value(X)[i], case.penalty.value(X[i]))
        assert not C[0].any()
        assert torch.equal(C[3], X[3])

    def test_each_entry_by_itself(self, case) -> None:
        # What lets a kernel work on one column, or tile by tile.
        assert isinstance(case.penalty, ElementwisePenalty)
        X = symmetric(4, 4)
        assert torch.equal(case.penalty.dual(X[:, 1]), case.penalty.dual(X)[:, 1])
        assert torch.equal(case.penalty.shrink(X[:2, 1:], number(0.3)), case.penalty.shrink(X, number(0.3))[:2, 1:])

    def test_the_residual_is_not_written_to(self, case) -> None:
        X = symmetric(3, 4, 4)
        before, version = X.clone(), X._version
        for result in (case.penalty.value(X), case.penalty.dual(X), case.penalty.shrink(X, number(math.inf))):
            result.zero_()
        assert torch.equal(X, before)
        assert X._version == version

    def test_not_a_number_passes_through(self, case) -> None:
        X = symmetric(3, 4, 4)
        X[1, 0, 2] = X[1, 2, 0] = math.nan
        assert case.penalty.value(X).isnan().tolist() == [False, True, False]
        for tau in TAUS:
            assert torch.equal(case.penalty.shrink(X, number(tau)).isnan(), X.isnan())

    def test_infinity_is_an_infinite_value(self, case) -> None:
        X = torch.tensor([[math.inf, 1.0], [1.0, -math.inf]])
        assert case.penalty.value(X) == math.inf


def test_huber_is_the_moreau_envelope_of_l1() -> None:
    for delta in (0.1, 2.0):
        for X in residuals():
            C = L1().shrink(X, number(delta))
            torch.testing.assert_close(Huber(delta).value(X), L1().value(X - C) + C.square().sum() / (2 * delta))
            torch.testing.assert_close(Huber(delta).dual(X), C / delta)
            gap = L1().value(X) - Huber(delta).value(X)
            assert 0 <= gap <= X.numel() * delta / 2 + 1e-12


def test_l1_leaves_exact_zeros_and_the_squares_do_not() -> None:
    X = symmetric(6, 6)
    tau = number(X.abs().median().item())
    left = [X - penalty.shrink(X, tau) for penalty in (L1(), SquaredFrobenius())]
    assert (left[0] == 0).sum() >= X.numel() // 2
    assert (left[0] != 0).any()
    assert (left[1] != 0).all()


def test_l1_adds_many_entries_without_losing_digits() -> None:
    # torch.linalg.vector_norm(X, 1) does not cascade on a CPU: off by 5e-3 at this size.
    X = torch.rand(4096, 4096)
    assert L1().value(X).item() == pytest.approx(X.double().sum().item(), rel=1e-6)


def test_a_wrong_shrink_would_be_seen() -> None:
    X, tau = symmetric(4, 4), 0.3
    C = L1().shrink(X, number(tau))
    wrong = (X - C, torch.sign(X) * tau, X.clamp(-2 * tau, 2 * tau), C.triu())
    expected = torch.tensor(PENALTY_CASES["l1"].prox(X.tolist(), tau), dtype=torch.float64)
    assert all((X - each - expected).abs().max() > 0.05 for each in wrong)


class TestNames:
    def test_a_name_or_an_object(self) -> None:
        assert as_penalty("l1") == L1()
        assert as_penalty("huber") == Huber() == Huber(delta=0.1) != Huber(0.2)
        assert as_penalty("squared_frobenius") == SquaredFrobenius()
        mine = Huber(0.3)
        assert as_penalty(mine) is mine
        assert set(PENALTIES) == {"l1", "huber", "squared_frobenius", "frobenius", "spectral", "coherence", "logdet"}

    @pytest.mark.parametrize("penalty", ["l2", "", "L1", None, 3, L1], ids=str)
    def test_no_penalty(self, penalty, unchecked) -> None:
        with pytest.raises(OptionError, match=r"one of 'l1', 'huber', .*'logdet' or a gramian\.Penalty; got"):
            as_penalty(penalty)

    @pytest.mark.parametrize("delta", [0.0, -1.0, math.nan, math.inf, -math.inf])
    def test_a_width_that_is_none(self, delta) -> None:
        with pytest.raises(OptionError, match=r"delta must be a positive finite number; got .*; try delta=0\.1"):
            Huber(delta)

    def test_a_penalty_has_all_three_parts(self) -> None:
        class Half(Penalty):
            def value(self, X: Tensor) -> Tensor:
                return X.sum(dim=(-2, -1))

        with pytest.raises(TypeError, match="abstract"):
            Half()  # pyright: ignore
