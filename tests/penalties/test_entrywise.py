"""Sums over entries, and the prox by bisection; the laws are in `tests/laws`."""

import math

import pytest
import torch
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties import (
    L1,
    Elementwise,
    Huber,
    SquaredFrobenius,
)
from gramian.penalties.entrywise import prox_residual_by_bisection
from tests.cases import over_penalties


def symmetric(*shape: int, scale: float = 1.0) -> Tensor:
    X = scale * torch.randn(shape, dtype=torch.float64)
    return (X + X.mT) / 2


def number(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=torch.float64)


def test_the_prox_of_l1_gives_exact_zeros_and_that_of_squares_does_not() -> None:
    X = symmetric(6, 6)
    tau = number(X.abs().median().item())
    prox = [X - penalty.prox_residual(X, tau) for penalty in (L1(), SquaredFrobenius())]
    assert (prox[0] == 0).sum() >= X.numel() // 2
    assert (prox[0] != 0).any()
    assert (prox[1] != 0).all()


def test_l1_adds_many_entries_without_losing_digits() -> None:
    # torch.linalg.vector_norm(X, 1) does not cascade on a CPU: off by 5e-3 at this size.
    X = torch.rand(4096, 4096)
    assert L1().value(X).item() == pytest.approx(X.double().sum().item(), rel=1e-6)


@over_penalties
def test_a_tiny_tau_loses_no_digits(case) -> None:
    # Away from kinks, C_τ is τG to first order.
    X = symmetric(4, 4).add(torch.full((4, 4), 5.0).double()).float()
    C = case.penalty.prox_residual(X, torch.tensor(1e-20))
    torch.testing.assert_close(C / 1e-20, case.penalty.subgradient(X), rtol=1e-6, atol=0)


@over_penalties
def test_infinity_is_an_infinite_value(case) -> None:
    X = torch.tensor([[math.inf, 1.0], [1.0, -math.inf]])
    assert case.penalty.value(X) == math.inf


TAUS = (0.0, 1e-3, 0.2, 3.0, math.inf)


class TestBisection:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("penalty", [L1(), Huber(), Huber(2.0), SquaredFrobenius()], ids=repr)
    def test_it_agrees_with_the_closed_form(self, penalty, dtype) -> None:
        X = torch.cat([torch.linspace(-3, 3, 61, dtype=dtype), torch.tensor([1e-6, -1e-6], dtype=dtype)])[None]
        for tau in TAUS:
            t = torch.tensor(tau, dtype=dtype)
            result, expected = prox_residual_by_bisection(penalty.subgradient, X, t), penalty.prox_residual(X, t)
            torch.testing.assert_close(result, expected, rtol=0, atol=6 * torch.finfo(dtype).eps)
            if tau in (0.0, math.inf):
                assert torch.equal(result, expected)

    def test_where_the_derivative_is_zero_nothing_is_removed(self) -> None:
        penalty = Elementwise(lambda x: (x.abs() - 1).clamp_min(0), lambda x: x.sign() * (x.abs() > 1))
        result = penalty.prox_residual(torch.tensor([[0.5, 3.0]]), torch.tensor(math.inf))
        torch.testing.assert_close(result, torch.tensor([[0.0, 2.0]]))

    @pytest.mark.parametrize(
        ("function", "derivative", "message"),
        [
            (lambda x: x.abs() + 1, torch.sign, "function must be 0 at 0"),
            (lambda x: -x.abs(), lambda x: -x.sign(), "must be convex"),
            (lambda x: x.abs().sqrt(), lambda x: x.sign() / (2 * x.abs().sqrt() + 1e-9), "must be convex"),
            (torch.abs, lambda x: 2 * x, "derivative must be the derivative of function; got -?18.2 at -?9"),
            (lambda x: x.abs().sum(), torch.sign, "must act entry by entry"),
        ],
    )
    def test_invalid_functions(self, function, derivative, message) -> None:
        with pytest.raises(OptionError, match=message):
            Elementwise(function, derivative)
