"""The laws of the three functions of X, value, subgradient and prox residual, for every penalty of the table."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gramian.penalties import L1, Huber, Penalty
from tests.cases import (
    ALL_CASES,
    DTYPES,
    PENALTY_CASES,
    PenaltyCase,
    over,
    over_all_penalties,
    over_convex,
    over_proximable,
)

TAUS = (0.0, 1e-3, 0.1, 0.7, 5.0, math.inf)
EACH_TAU = torch.tensor(TAUS, dtype=torch.float64)[:, None, None]
KINKS = (0.0, -0.0, 0.1, -0.1, 2.0, -2.0, 0.7, -0.7, 0.8, -0.8, 2.7, -2.7)
"""Kinks of the functions of the table: 0, ±δ, ±τ and ±(τ + δ) for δ = 0.1 and 2, τ = 0.7."""

over_entrywise = over(ALL_CASES, lambda case: case.at(2, 2).accepts_blocks)
over_even = over(ALL_CASES, lambda case: case.even)


def symmetric(*shape: int, scale: float = 1.0) -> Tensor:
    X = scale * torch.randn(shape, dtype=torch.float64)
    return torch.triu(X) + torch.triu(X, 1).mT


def kinked(*shape: int) -> Tensor:
    """Symmetric matrices whose entries are kinks of the functions of the table, or random."""
    at_kinks = torch.tensor(KINKS, dtype=torch.float64)[torch.randint(len(KINKS), shape)]
    X = torch.where(torch.rand(shape) < 0.6, at_kinks, 3 * torch.randn(shape, dtype=torch.float64))
    return torch.triu(X) + torch.triu(X, 1).mT


def residuals(case: PenaltyCase) -> list[Tensor]:
    """Matrices with a finite penalty: of three scales, at kinks, with ties, block diagonal, diagonal, and zero."""
    random = [symmetric(n, n, scale=scale) for n in (1, 2, 4) for scale in (0.05, 1.0, 20.0)]
    tied = torch.tensor([[0.5, -0.5, 0.0], [-0.5, 0.5, 0.5], [0.0, 0.5, -0.5]], dtype=torch.float64)
    blocks = torch.block_diag(torch.full((2, 2), 0.5), torch.full((2, 2), -0.5)).double()
    rare = [tied, blocks] if case.ties else []
    diagonal = torch.diag(torch.tensor([-0.9, 0.0, 3.0], dtype=torch.float64))
    admitted = [case.admit(X) for X in (*random, kinked(5, 5), *rare, diagonal)]
    return [*admitted, torch.zeros(3, 3, dtype=torch.float64)]


def number(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=torch.float64)


def close(case: PenaltyCase, got: Tensor, expected, like: Tensor) -> None:
    size = 1 + (like.abs().max().item() if like.numel() else 0)
    expected = torch.as_tensor(expected, dtype=got.dtype)
    torch.testing.assert_close(got, expected, rtol=case.tolerance, atol=case.tolerance * size)


@over_all_penalties
class TestAgainstTheOracle:
    def test_value_and_subgradient(self, case) -> None:
        for X in residuals(case):
            penalty, (mu,) = case.at(1, len(X)), case.mu(1, len(X))
            close(case, penalty.value(X[None])[0], mu.value(X.tolist()), X)
            close(case, penalty.subgradient(X[None])[0], mu.subgradient(X.tolist()), X)

    def test_a_wrong_subgradient_is_detected(self, case) -> None:
        X = case.admit(symmetric(4, 4))[None]
        G, (mu,) = case.at(1, 4).subgradient(X), case.mu(1, 4)
        right = torch.tensor(mu.subgradient(X[0].tolist()), dtype=torch.float64)
        if case is ALL_CASES["0 l1"]:
            assert not G.any()
            return
        for wrong in (-G, G.triu(), 2 * G, 0 * G):
            assert (wrong[0] - right).abs().max() > 1e-3


@over_proximable
def test_prox_residual_is_x_minus_the_prox(case) -> None:
    m = len(TAUS)
    for X in residuals(case):
        C = case.at(m, len(X)).prox_residual(X.expand(m, -1, -1), EACH_TAU)
        near = [mu.prox(X.tolist(), tau) for mu, tau in zip(case.mu(m, len(X)), TAUS, strict=True)]
        close(case, C, X - torch.tensor(near, dtype=torch.float64), X)


def problems(case: PenaltyCase, count: int = 300) -> Iterator[tuple[Penalty, Tensor, Tensor, Tensor]]:
    """A penalty, many X, as many Z, and a τ for each: with entries at kinks and random ones of many scales."""
    for n in (1, 2, 4):
        scales = 10 ** torch.empty(count, 1, 1, dtype=torch.float64).uniform_(-2, 1.5)
        plain = torch.arange(count)[:, None, None] % 2 == 0
        X, Z = (case.admit(torch.where(plain, kinked(count, n, n), scales * symmetric(count, n, n))) for _ in range(2))
        yield case.at(count, n), X, Z, 10 ** torch.empty(count, 1, 1, dtype=torch.float64).uniform_(-3, 2)


def sums(A: Tensor) -> Tensor:
    return A.sum(dim=(1, 2))


class TestConvexity:
    @over_proximable
    def test_the_prox_is_the_minimiser(self, case) -> None:
        # τμ + ½‖· − X‖² is strongly convex: at Z it exceeds its minimum, at Y, by at least ½‖Z − Y‖².
        for penalty, X, Z, tau in problems(case):
            Y, t = X - penalty.prox_residual(X, tau), tau[:, 0, 0]
            for other in (Z, (Y + Z) / 2, Y + 1e-3 * (Z - Y), X):
                least, there = (t * penalty.value(A) + sums((A - X).square()) / 2 for A in (Y, other))
                assert (least + sums((other - Y).square()) / 2 <= there + 1e-8 * (1 + there)).all()

    @over_proximable
    def test_the_prox_residual_is_tau_times_a_subgradient_at_the_prox_and_firmly_nonexpansive(self, case) -> None:
        for penalty, X, Z, tau in problems(case):
            C = penalty.prox_residual(X, tau)
            Y = X - C
            below = penalty.value(Y) + sums(C / tau * (Z - Y))
            assert (penalty.value(Z) >= below - 1e-8 * (1 + below.abs() + sums((C / tau * Z).abs()))).all()
            change = C - penalty.prox_residual(Z, tau)
            assert (sums(change.square()) <= sums(change * (X - Z)) + 1e-8 * (1 + sums((X - Z).square()))).all()

    @over_convex
    def test_the_subgradient_inequality(self, case) -> None:
        for penalty, X, Z, _ in problems(case):
            G = penalty.subgradient(X)
            below = penalty.value(X) + sums(G * (Z - X))
            assert (penalty.value(Z) >= below - 1e-8 * (1 + below.abs() + sums((G * Z).abs()))).all()

    @over(ALL_CASES, lambda case: case.degree is not None)
    def test_homogeneous(self, case) -> None:
        for penalty, X, _, _ in problems(case):
            value = penalty.value(X)
            torch.testing.assert_close(sums(penalty.subgradient(X) * X), case.degree * value)  # Euler's identity
            for c in (0.125, 3.0, 100.0):
                torch.testing.assert_close(penalty.value(c * X), c**case.degree * value)
                if case.has_prox:
                    expected = c * penalty.prox_residual(X, number(0.3 * c ** (case.degree - 2)))
                    torch.testing.assert_close(
                        penalty.prox_residual(c * X, number(0.3)), expected, rtol=1e-7, atol=1e-7
                    )


@over_all_penalties
def test_the_subgradient_is_the_gradient_where_there_is_one(case) -> None:
    for X in residuals(case)[:9]:
        penalty, leaf = case.at(1, len(X)), X[None].clone().requires_grad_()
        (slope,) = torch.autograd.grad(penalty.value(leaf).sum(), leaf)
        close(case, penalty.subgradient(X[None]), (slope + slope.mT) / 2, X)


@over_even
def test_even(case) -> None:
    for X in (each[None] for each in residuals(case)):
        penalty = case.at(1, X.shape[1])
        close(case, penalty.value(-X), penalty.value(X), X)
        close(case, penalty.subgradient(-X), -penalty.subgradient(X), X)
        if case.has_prox:
            close(case, penalty.prox_residual(-X, number(0.7)), -penalty.prox_residual(X, number(0.7)), X)


@over_entrywise
class TestEntryByEntry:
    """The property that allows a kernel to work on one column or one tile."""

    def test_blocks_give_the_same_entries(self, case) -> None:
        X, penalty = symmetric(4, 4), case.penalty
        assert torch.equal(penalty.subgradient(X[:, 1]), penalty.subgradient(X)[:, 1])
        assert torch.equal(penalty.prox_residual(X[:2, 1:], number(0.3)), penalty.prox_residual(X, number(0.3))[:2, 1:])

    def test_the_prox_moves_towards_zero_and_not_past_it(self, case) -> None:
        for X in residuals(case):
            removed = case.penalty.prox_residual(X.expand(len(TAUS), -1, -1), EACH_TAU)
            assert (removed * X >= 0).all()
            assert (removed.abs() <= X.abs()).all()
            assert (removed.abs().diff(dim=0) >= 0).all()  # more for a larger length
            assert case is ALL_CASES["0 l1"] or (removed[1:, X != 0] != 0).all()

    def test_large_entries_do_not_overflow_where_the_value_does_not(self, case) -> None:
        # Squares of 1e30 do.
        X = torch.full((2, 2), 1e30 if case.penalty.value(torch.full((1, 1), 1e30)).isfinite() else 1e18)
        assert case.penalty.value(X).isfinite()
        assert case.penalty.subgradient(X).isfinite().all()
        assert case.penalty.prox_residual(X, torch.tensor(1.0)).isfinite().all()


@over_all_penalties
class TestForm:
    def test_value_at_zero(self, case) -> None:
        zero, penalty = torch.zeros(1, 3, 3, dtype=torch.float64), case.at(1, 3)
        if case.zero:
            assert penalty.value(zero) == 0
            assert not penalty.subgradient(zero).any()
            assert not case.has_prox or not penalty.prox_residual(zero, number(0.5)).any()
        else:
            assert penalty.value(zero) > 0.1

    def test_tau_zero_removes_nothing_and_tau_infinity_all_that_is_penalized(self, case) -> None:
        for X in residuals(case) if case.has_prox else ():
            penalty, both = case.at(2, len(X)), X.expand(2, -1, -1)
            none, whole = penalty.prox_residual(both, EACH_TAU[[0, -1]])
            assert not none.any()
            assert case is ALL_CASES["0 l1"] or torch.equal(whole, penalty.penalized(both)[1])

    def test_dtype_and_shape(self, case) -> None:
        for dtype, leading, n in itertools.product(DTYPES, [(3,), (0,), (), (2, 3)], [0, 1, 4]):
            if case.separate and len(leading) != 1:
                continue
            X = case.admit(symmetric(*leading, n, n)).to(dtype)
            penalty, tau = case.at(*(leading[-1:] or (1,)), n), torch.tensor(0.5, dtype=dtype)
            results = [penalty.subgradient(X)]
            if case.has_prox:
                results += [penalty.prox_residual(X, tau), penalty.prox_residual(X, tau.expand(*leading, 1, 1))]
            for C in results:
                assert C.dtype == dtype
                assert C.shape == X.shape
                assert torch.equal(C, C.mT)
            assert penalty.value(X).dtype == dtype
            assert penalty.value(X).shape == leading

    def test_each_matrix_by_itself(self, case) -> None:
        X = case.admit(symmetric(4, 3, 3))
        tau = torch.tensor([0.0, 0.2, 1.5, math.inf], dtype=torch.float64)
        penalty = case.at(4, 3)
        for i in range(4):
            which = slice(i, i + 1)
            alone = penalty.select_groups(which)
            close(case, penalty.subgradient(X)[which], alone.subgradient(X[which]), X)
            close(case, penalty.value(X)[which], alone.value(X[which]), X)
            if case.has_prox:
                close(
                    case, penalty.prox_residual(X, tau[:, None, None])[which], alone.prox_residual(X[which], tau[i]), X
                )

    def test_the_residual_is_not_written_to(self, case) -> None:
        X, penalty = case.admit(symmetric(3, 4, 4)), case.at(3, 4)
        before, version = X.clone(), X._version
        results = [penalty.value(X), penalty.subgradient(X)]
        if case.has_prox:
            results += [penalty.prox_residual(X, number(tau)) for tau in (0.3, math.inf)]
        for each in results:
            # A result may be X itself, as for an infinite τ; then its caller copies it.
            assert each.shape == X.shape or each.data_ptr() != X.data_ptr()
        assert torch.equal(X, before)
        assert X._version == version

    def test_not_a_number_stays_in_its_matrix(self, case) -> None:
        X, penalty = case.admit(symmetric(3, 4, 4)), case.at(3, 4)
        X[1, 0, 1] = X[1, 1, 0] = math.nan
        assert penalty.value(X).isnan().tolist() == [False, True, False]
        if case.has_prox and case is not ALL_CASES["0 l1"]:
            bad = penalty.prox_residual(X, number(0.3)).isnan()
            assert bad.flatten(1).any(dim=1).tolist() == [False, True, False]


def test_huber_is_the_moreau_envelope_of_l1() -> None:
    for delta in (0.1, 2.0):
        for X in residuals(PENALTY_CASES["l1"]):
            C = L1().prox_residual(X, number(delta))
            torch.testing.assert_close(Huber(delta).value(X), L1().value(X - C) + C.square().sum() / (2 * delta))
            torch.testing.assert_close(Huber(delta).subgradient(X), C / delta)
            gap = L1().value(X) - Huber(delta).value(X)
            assert 0 <= gap <= X.numel() * delta / 2 + 1e-12


@over_proximable
def test_a_wrong_prox_residual_is_detected(case) -> None:
    X, tau = case.admit(symmetric(4, 4)), 0.3
    C, (mu,) = case.at(1, 4).prox_residual(X[None], number(tau))[0], case.mu(1, 4)
    expected = X - torch.tensor(mu.prox(X.tolist(), tau), dtype=torch.float64)
    if case is ALL_CASES["0 l1"]:
        return
    for wrong in (X - C, C.triu(), 2 * C, -C):
        assert (wrong - expected).abs().max() > 1e-2
