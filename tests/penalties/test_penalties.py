"""What is special to penalties of each entry of X, and names; their laws are in `tests/laws`."""

import math

import pytest
import torch
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties import L1, PENALTIES, Huber, Penalty, SquaredFrobenius, as_penalty
from tests.cases import over_penalties

"""Where the table's functions bend: 0, ±δ, ±τ and ±(τ + δ) for δ = 0.1 and 2, τ = 0.7."""


def symmetric(*shape: int, scale: float = 1.0) -> Tensor:
    X = scale * torch.randn(shape, dtype=torch.float64)
    return (X + X.mT) / 2


def number(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=torch.float64)


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


@over_penalties
def test_a_tiny_length_loses_no_digits(case) -> None:
    # To first order the shrink is τG, where the penalty has no kink.
    X = symmetric(4, 4).add(torch.full((4, 4), 5.0).double()).float()
    C = case.penalty.shrink(X, torch.tensor(1e-20))
    torch.testing.assert_close(C / 1e-20, case.penalty.dual(X), rtol=1e-6, atol=0)


@over_penalties
def test_infinity_is_an_infinite_value(case) -> None:
    X = torch.tensor([[math.inf, 1.0], [1.0, -math.inf]])
    assert case.penalty.value(X) == math.inf


class TestNames:
    def test_a_name_or_an_object(self) -> None:
        assert as_penalty("l1") == L1()
        assert as_penalty("huber") == Huber() == Huber(delta=0.1) != Huber(0.2)
        assert as_penalty("squared_frobenius") == SquaredFrobenius()
        mine = Huber(0.3)
        assert as_penalty(mine) is mine
        assert set(PENALTIES) == {"l1", "huber", "squared_frobenius", "frobenius", "spectral", "coherence", "logdet"}

    @pytest.mark.parametrize("penalty", ["l2", "", "L1", None, 3], ids=str)
    def test_no_penalty(self, penalty, unchecked) -> None:
        with pytest.raises(OptionError, match=r"one of 'l1', 'huber', .*'logdet' or a gramian\.Penalty; got"):
            as_penalty(penalty)

    def test_a_class_in_place_of_an_object(self, unchecked) -> None:
        with pytest.raises(OptionError, match=r"penalty must be an object; got the class L1; try penalty=L1\(\.\.\.\)"):
            as_penalty(L1)

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
