"""Penalties of the whole of X, and of angles alone: each against the oracle, and the laws of convexity and the prox."""

import math

import pytest
import torch
from torch import Tensor

import gramian
from gramian.errors import OptionError
from gramian.penalties import PENALTIES, Coherence, Frobenius, LogDet, Spectral
from gramian.penalties.spectrum import onto_l1_ball
from tests.cases import FREE_LENGTHS, NORM_CASES, over_draws, over_dtypes, plain_loss

CASES = NORM_CASES | FREE_LENGTHS
TAUS = (0.0, 1e-3, 0.1, 0.7, 5.0, math.inf)

over_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
over_taus = pytest.mark.parametrize("tau", TAUS)


def residuals(case) -> list[Tensor]:
    """Matrices on which the penalty is finite: of three scales, with ties, of two blocks, and zero."""
    made = []
    for n in (1, 2, 4):
        for scale in (0.05, 1.0, 20.0):
            X = scale * torch.randn(n, n, dtype=torch.float64)
            made.append((X + X.mT) / 2)
    tied = torch.tensor([[0.5, -0.5, 0.0], [-0.5, 0.5, 0.5], [0.0, 0.5, -0.5]], dtype=torch.float64)
    blocks = torch.block_diag(torch.full((2, 2), 0.5), torch.full((2, 2), -0.5)).double()
    return [case.admit(X) for X in (*made, tied, blocks)] + [torch.zeros(3, 3).double()]


def number(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=torch.float64)


def close(got: Tensor, expected, like: Tensor) -> None:
    size = 1 + (like.abs().max().item() if like.numel() else 0)
    expected = torch.as_tensor(expected, dtype=got.dtype)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * size)


@over_cases
class TestAgainstTheOracle:
    def test_value_and_dual(self, case) -> None:
        for X in residuals(case):
            close(case.penalty.value(X), case.value(X.tolist()), X)
            close(case.penalty.dual(X), case.dual(X.tolist()), X)

    @over_taus
    def test_shrink_is_what_the_prox_takes_away(self, case, tau) -> None:
        for X in residuals(case):
            close(case.penalty.shrink(X, number(tau)), X - torch.tensor(case.prox(X.tolist(), tau), dtype=X.dtype), X)


@over_cases
@over_draws
class TestLaws:
    def test_of_the_prox(self, case, draw) -> None:
        torch.manual_seed(draw)
        few = residuals(case)[6:9]
        for tau in (1e-3, 0.3, 4.0):
            for X, Z in zip(few, residuals(case)[6:9], strict=True):
                C = case.penalty.shrink(X, number(tau))
                Y = X - C
                # τμ + ½‖· − X‖² is strongly convex: away from its minimiser Y it grows by at least ½‖Z − Y‖².
                for other in (Z, (Y + Z) / 2, Y + 1e-3 * (Z - Y), X):
                    least, there = (tau * case.penalty.value(A) + (A - X).square().sum() / 2 for A in (Y, other))
                    assert least + (other - Y).square().sum() / 2 <= there + 1e-8 * (1 + there)
                below = case.penalty.value(Y) + (C / tau * (Z - Y)).sum()
                assert case.penalty.value(Z) >= below - 1e-8 * (1 + below.abs() + (C / tau * Z).abs().sum())
                difference = C - case.penalty.shrink(Z, number(tau))
                assert difference.square().sum() <= (difference * (X - Z)).sum() + 1e-8 * (1 + X.square().sum())

    def test_of_the_dual(self, case, draw) -> None:
        torch.manual_seed(draw)
        for X, Z in zip(residuals(case), residuals(case), strict=True):
            G = case.penalty.dual(X)
            below = case.penalty.value(X) + (G * (Z - X)).sum()
            assert case.penalty.value(Z) >= below - 1e-8 * (1 + below.abs() + (G * Z).abs().sum())
            if case.degree is not None:
                close((G * X).sum(), case.degree * case.penalty.value(X), X)  # Euler's identity
                close(case.penalty.value(3 * X), 3**case.degree * case.penalty.value(X), X)

    def test_the_dual_is_the_slope_where_there_is_one(self, case, draw) -> None:
        torch.manual_seed(draw)
        for X in residuals(case)[3:9]:
            leaf = X.clone().requires_grad_()
            (slope,) = torch.autograd.grad(case.penalty.value(leaf), leaf)
            close(case.penalty.dual(X), (slope + slope.mT) / 2, X)

    def test_the_gradient_by_autograd(self, case, draw) -> None:
        torch.manual_seed(draw)
        leaf = torch.randn(6, 2, 3, dtype=torch.float64).requires_grad_()
        (expected,) = torch.autograd.grad(plain_loss(leaf, case, 0.7), leaf)
        value, grad = gramian.value_and_grad(leaf.detach(), beta=0.7, penalty=case.penalty)
        torch.testing.assert_close(value, plain_loss(leaf, case, 0.7).detach())
        torch.testing.assert_close(grad, expected)
        for a, b in ((0, 0), (1, 2)):
            vector = gramian.grad_vector(leaf.detach(), a, b, beta=0.7, penalty=case.penalty)
            torch.testing.assert_close(vector, expected[:, a, b])

    def test_turned_groups_cost_the_same(self, case, draw) -> None:
        torch.manual_seed(draw)
        phi = torch.randn(6, 2, 3, dtype=torch.float64)
        turned = torch.einsum("kl,lmn->kmn", torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q, phi)
        torch.testing.assert_close(gramian.loss(turned, penalty=case.penalty), gramian.loss(phi, penalty=case.penalty))


@over_cases
class TestForm:
    def test_no_length_takes_nothing_and_no_bound_takes_all_that_is_seen(self, case) -> None:
        for X in residuals(case):
            assert not case.penalty.shrink(X, number(0.0)).any()
            assert torch.equal(case.penalty.shrink(X, number(math.inf)), case.penalty.seen(X))

    def test_zero_costs_nothing(self, case) -> None:
        zero = torch.zeros(3, 3)
        assert case.penalty.value(zero) == 0
        assert not case.penalty.dual(zero).any()
        assert not case.penalty.shrink(zero, torch.tensor(0.5)).any()

    @over_dtypes
    @pytest.mark.parametrize("leading", [(), (3,), (0,)], ids=str)
    @pytest.mark.parametrize("n", [0, 1, 4])
    def test_dtype_and_shape(self, case, dtype, leading, n) -> None:
        X = torch.randn(*leading, n, n)
        X = case.admit((X + X.mT) / 2).to(dtype)
        tau = torch.tensor(0.5, dtype=dtype)
        for C in (
            case.penalty.dual(X),
            case.penalty.shrink(X, tau),
            case.penalty.shrink(X, tau.expand(*leading, 1, 1)),
        ):
            assert C.dtype == dtype
            assert C.shape == X.shape
            assert torch.equal(C, C.mT)
        assert case.penalty.value(X).dtype == dtype
        assert case.penalty.value(X).shape == leading

    def test_each_matrix_by_itself(self, case) -> None:
        X = torch.stack([case.admit(A + A.mT) for A in torch.randn(4, 3, 3, dtype=torch.float64)])
        tau = torch.tensor([0.0, 0.2, 1.5, math.inf], dtype=torch.float64)
        C = case.penalty.shrink(X, tau[:, None, None])
        for i in range(4):
            close(C[i], case.penalty.shrink(X[i], tau[i]), X)
            close(case.penalty.dual(X)[i], case.penalty.dual(X[i]), X)
            close(case.penalty.value(X)[i], case.penalty.value(X[i]), X)

    def test_not_a_number_stays_in_its_matrix(self, case) -> None:
        X = torch.stack([case.admit(A + A.mT) for A in torch.randn(3, 4, 4)])
        X[1, 0, 2] = X[1, 2, 0] = math.nan
        assert case.penalty.value(X).isnan().tolist() == [False, True, False]
        for tau in TAUS[1:]:
            bad = case.penalty.shrink(X, torch.tensor(tau)).isnan().flatten(1)
            assert bad.any(dim=1).tolist() == [False, True, False]

    def test_orthogonalize(self, case) -> None:
        phi = torch.randn(9, 3, 4)
        found = gramian.orthogonalize(phi, penalty=case.penalty)
        assert found.converged
        assert case.penalty.seen(gramian.residual(found.phi.double())).abs().max() < 1e-6
        if case.penalty.diagonal:
            assert gramian.residual(found.phi).abs().max() < 1e-6
        else:
            assert gramian.residual(found.phi).abs().max() > 0.1  # lengths stay what they were

    def test_in_sixteen_bits(self, case) -> None:
        phi = torch.randn(16, 2, 4)
        exact, half = (gramian.value_and_grad(each, penalty=case.penalty) for each in (phi, phi.bfloat16()))
        torch.testing.assert_close(half[0], exact[0], rtol=0.05, atol=0)


def test_what_has_no_closed_shrink_says_so() -> None:
    for penalty in (Spectral(diagonal=False), LogDet(diagonal=False)):
        with pytest.raises(OptionError, match="has no closed shrink; try rule='polyak'"):
            gramian.step_(torch.randn(8, 2, 3), lr=0.1, penalty=penalty)
        before = gramian.step_(torch.randn(8, 2, 3), lr=0.01, rule="polyak", penalty=penalty)
        assert before > 0


def test_free_lengths_of_norms_by_autograd() -> None:
    for penalty in (Spectral(diagonal=False), LogDet(diagonal=False)):
        phi = (0.3 * torch.randn(6, 2, 3, dtype=torch.float64)).requires_grad_()
        X = torch.einsum("lmj,lmk->mjk", phi, phi)
        X = X - torch.diag_embed(X.diagonal(dim1=1, dim2=2))
        (expected,) = torch.autograd.grad(penalty.value(X).sum(), phi)
        torch.testing.assert_close(gramian.value_and_grad(phi.detach(), penalty=penalty)[1], expected)


def test_dependent_vectors_are_infinitely_far_by_logdet() -> None:
    phi = torch.randn(6, 2, 3)
    phi[:, 1, 2] = phi[:, 1, 0]
    value, grad = gramian.value_and_grad(phi, penalty=LogDet())
    assert not value < 1e4 or value.isinf()
    assert grad[:, 0].isfinite().all()


def test_small_residuals_lose_no_digits_by_logdet() -> None:
    x = torch.tensor([1e-9, -1e-5, 1e-3, 9.9e-3, 1.1e-2], dtype=torch.float64)
    value = LogDet().value(torch.diag_embed(x[:, None]))
    torch.testing.assert_close(value, x**2 / 2 - x**3 / 3 + x**4 / 4 - x**5 / 5 + x**6 / 6, rtol=1e-9, atol=0)


def test_onto_an_l1_ball() -> None:
    x = torch.randn(200, 7, dtype=torch.float64)
    found = onto_l1_ball(x, number(1.0))
    assert (found.abs().sum(dim=1) <= 1 + 1e-12).all()
    inside = 0.1 * x / x.abs().sum(dim=1, keepdim=True)
    assert torch.equal(onto_l1_ball(inside, number(1.0)), inside)
    others = torch.randn(500, 7, dtype=torch.float64)
    others /= others.abs().sum(dim=1, keepdim=True)
    # The nearest point makes no acute angle towards any other of the ball.
    assert ((x - found)[:, None] * (others[None] - found[:, None])).sum(dim=2).max() < 1e-12


def test_all_of_the_family_have_names() -> None:
    assert {type(each) for each in PENALTIES.values()} >= {Frobenius, Spectral, Coherence, LogDet}
