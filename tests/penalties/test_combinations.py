"""Sums and multiples of penalties."""

import math

import pytest
import torch
from torch import Tensor

import gramian
from gramian import kernels, selection, training
from gramian.errors import OptionError
from gramian.penalties import (
    L1,
    Frobenius,
    Huber,
    Spectral,
    SquaredFrobenius,
    Sum,
)

M, N, LENGTH = 3, 4, 7


def draw(seed: int = 0, scale: float = 0.6) -> Tensor:
    return scale * torch.randn(LENGTH, M, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestSums:
    def test_they_are_flat_and_print_themselves(self) -> None:
        result = L1() + 2 * Huber() + Frobenius()
        assert isinstance(result, Sum)
        assert len(result.parts) == 3
        assert "factor=2.0" in repr(result)

    @pytest.mark.parametrize("factor", [-1.0, math.inf, math.nan])
    def test_invalid_factors(self, factor) -> None:
        with pytest.raises(OptionError, match="factor of a penalty must be finite and at least 0"):
            factor * L1()

    @pytest.mark.parametrize("operation", [lambda: L1() + 1, lambda: L1() * "2"])
    def test_with_something_that_is_not_a_penalty(self, operation) -> None:
        with pytest.raises(TypeError):
            operation()

    def test_without_a_prox(self) -> None:
        with pytest.raises(OptionError, match="a sum of penalties has no closed prox unless every part is elementwise"):
            gramian.step_(draw(), lr=0.1, penalty=L1() + Spectral())

    def test_in_panels(self) -> None:
        phi = torch.randn(1200, 1, 1100)
        elastic = L1() + SquaredFrobenius()
        with kernels.watch() as used:
            value, grad = gramian.value_and_grad(phi, penalty=elastic)
        assert used == ["panel"]
        one, two = gramian.value_and_grad(phi), gramian.value_and_grad(phi, penalty="squared_frobenius")
        torch.testing.assert_close(value, one[0] + two[0])
        torch.testing.assert_close(grad, one[1] + two[1], rtol=1e-4, atol=1e-2)

    def test_in_training(self) -> None:
        model = torch.nn.Linear(16, 8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attachment = gramian.attach(optimizer, model, beta=1.0, penalty=L1() + 0.1 * SquaredFrobenius())
        for _ in range(30):
            optimizer.zero_grad()
            (1e-3 * model(torch.randn(4, 16)).square().mean()).backward()
            optimizer.step()
        assert max(attachment.residuals().values()) < 1e-3
        targets, _ = selection.select_parameters(model)
        assert training.loss(targets, beta=1.0, penalty=3 * L1()) < 0.1
