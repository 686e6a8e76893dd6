"""The cosine form."""

import math

import pytest
import torch
from torch import Tensor

import gramian
from gramian.errors import OptionError
from gramian.penalties import (
    L1,
    Cosine,
)

M, N, LENGTH = 3, 4, 7


def plain_cosines(P: Tensor) -> Tensor:
    unit = P / torch.linalg.vector_norm(P, dim=-2, keepdim=True)
    return unit.mT @ unit - torch.eye(P.shape[-1], dtype=P.dtype)


def draw(seed: int = 0, scale: float = 0.6) -> Tensor:
    return scale * torch.randn(LENGTH, M, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestCosine:
    def test_lengths_do_not_matter(self) -> None:
        phi = draw()
        scales = torch.rand(1, M, N, dtype=torch.float64) + 0.1
        value, grad = gramian.value_and_grad(phi, penalty=Cosine(L1()))
        other, scaled = gramian.value_and_grad(phi * scales, penalty=Cosine(L1()))
        torch.testing.assert_close(other, value)
        torch.testing.assert_close(scaled * scales, grad)
        assert (grad * phi).sum(dim=0).abs().max() < 1e-12

    def test_a_vector_of_length_zero(self) -> None:
        phi = draw()
        phi[:, 1, 2] = 0
        value, grad = gramian.value_and_grad(phi, penalty=Cosine(L1()))
        assert value.isfinite()
        assert grad.isfinite().all()
        assert not grad[:, 1, 2].any()

    def test_nan_is_not_hidden(self) -> None:
        phi = draw()
        phi[0, 1, 2] = math.nan
        value, grad = gramian.value_and_grad(phi, penalty=Cosine(L1()))
        assert value.isnan()
        assert grad[:, 1].isnan().all()
        assert grad[:, 0].isfinite().all()

    def test_polyak_makes_right_angles(self) -> None:
        result = gramian.orthogonalize(draw(), penalty=Cosine(L1()), rule="polyak", max_steps=5000)
        assert result.converged
        assert plain_cosines(result.phi.permute(1, 0, 2)).abs().max() < 1e-5

    def test_there_is_no_prox(self) -> None:
        with pytest.raises(OptionError, match="cosine form has no closed prox; try rule='polyak'"):
            gramian.step_(draw(), lr=0.1, penalty=Cosine(L1()))
