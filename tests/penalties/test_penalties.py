"""Penalties by name, and subclasses of `Penalty`."""

import math

import pytest
import torch
from torch import Tensor

import gramian
from gramian.errors import OptionError
from gramian.penalties import (
    L1,
    PENALTIES,
    Coherence,
    Elementwise,
    Frobenius,
    Huber,
    LogDet,
    Penalty,
    Spectral,
    SquaredFrobenius,
    Weighted,
    as_penalty,
)


class TestNames:
    def test_a_name_or_an_object(self) -> None:
        assert as_penalty("l1") == L1()
        assert as_penalty("huber") == Huber() == Huber(delta=0.1) != Huber(0.2)
        assert as_penalty("squared_frobenius") == SquaredFrobenius()
        huber = Huber(0.3)
        assert as_penalty(huber) is huber
        assert set(PENALTIES) == {"l1", "huber", "squared_frobenius", "frobenius", "spectral", "coherence", "logdet"}

    @pytest.mark.parametrize("penalty", ["l2", "", "L1", None, 3], ids=str)
    def test_no_penalty(self, penalty, unchecked) -> None:
        with pytest.raises(OptionError, match=r"one of 'l1', 'huber', .*'logdet' or a gramian\.Penalty; got"):
            as_penalty(penalty)

    def test_a_class_in_place_of_an_object(self, unchecked) -> None:
        with pytest.raises(OptionError, match=r"penalty must be an object; got the class L1; try penalty=L1\(\.\.\.\)"):
            as_penalty(L1)

    @pytest.mark.parametrize("delta", [0.0, -1.0, math.nan, math.inf, -math.inf])
    def test_invalid_widths(self, delta) -> None:
        with pytest.raises(OptionError, match=r"delta must be a positive finite number; got .*; try delta=0\.1"):
            Huber(delta)


class TestSubclasses:
    def test_value_and_subgradient_are_required(self) -> None:
        class Half(Penalty):
            def value(self, X: Tensor) -> Tensor:
                return X.sum(dim=(-2, -1))

        with pytest.raises(TypeError, match="abstract"):
            Half()  # pyright: ignore

    def test_without_a_prox(self) -> None:
        class Squares(Penalty):
            def value(self, X: Tensor) -> Tensor:
                return X.square().sum(dim=(-2, -1))

            def subgradient(self, X: Tensor) -> Tensor:
                return 2 * X

        assert L1().has_prox
        assert not Squares().has_prox
        phi = torch.randn(6, 2, 3)
        for penalty in (Squares(), Squares() + L1(), 2 * Squares()):
            with pytest.raises(OptionError, match=r"no closed prox.*; try rule='polyak'"):
                gramian.step_(phi, lr=0.1, penalty=penalty)
        twin = phi.clone()
        gramian.step_(phi, lr=0.1, rule="polyak", penalty=Squares())
        gramian.step_(twin, lr=0.1, rule="polyak", penalty=SquaredFrobenius())
        torch.testing.assert_close(phi, twin)

    def test_an_elementwise_one_can_be_summed_and_weighted(self) -> None:
        class Absolute(Penalty):
            elementwise = True

            def value(self, X: Tensor) -> Tensor:
                return self.penalized(X).abs().sum(dim=(-2, -1))

            def subgradient(self, X: Tensor) -> Tensor:
                return self.penalized(X).sign()

            def prox_residual(self, X: Tensor, tau: Tensor) -> Tensor:
                return self.penalized(X).clamp(-tau, tau)

        W = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [2.0, 1.0, 0.0]])
        for build in (lambda h: h, lambda h: h + 0.5 * SquaredFrobenius(), lambda h: Weighted(h, W)):
            one = torch.randn(6, 2, 3)
            two = one.clone()
            gramian.step_(one, lr=0.1, penalty=build(Absolute()))
            gramian.step_(two, lr=0.1, penalty=build(L1()))
            torch.testing.assert_close(one, two)

    def test_they_are_printed_without_tensors(self) -> None:
        W = torch.ones(3, 3)
        assert repr(2 * Weighted(L1(), W)) == "Scaled(factor=2.0, penalty=Weighted(penalty=L1(diagonal=True)))"
        assert repr(Elementwise(torch.square, lambda x: 2 * x)) == "Elementwise(square, <lambda>, diagonal=True)"


def test_all_of_the_family_have_names() -> None:
    assert {type(each) for each in PENALTIES.values()} >= {Frobenius, Spectral, Coherence, LogDet}
