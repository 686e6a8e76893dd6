"""Weights of pairs, and target Gram matrices."""

import math

import pytest
import torch
from torch import Tensor

import gramian
from gramian import foreach, kernels
from gramian.errors import OptionError, ShapeError
from gramian.penalties import (
    L1,
    Coherence,
    Cosine,
    Spectral,
    TargetGram,
    Weighted,
)

M, N, LENGTH = 3, 4, 7


def symmetric(*shape: int, seed: int = 0) -> Tensor:
    X = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (X + X.mT) / 2


def weights(*leading: int) -> Tensor:
    W = 0.3 + symmetric(*leading, N, N, seed=1).abs()
    W[..., 0, 2] = W[..., 2, 0] = 0
    return W


def gram(*leading: int) -> Tensor:
    A = torch.randn(*leading, 5, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return torch.eye(N, dtype=torch.float64) + 0.1 * (A.mT @ A + (A.mT @ A).mT) / 2


eye = torch.eye(N, dtype=torch.float64)


def draw(seed: int = 0, scale: float = 0.6) -> Tensor:
    return scale * torch.randn(LENGTH, M, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestWeights:
    def test_pairs_of_weight_zero_are_free(self) -> None:
        phi = draw()
        result = gramian.orthogonalize(phi, penalty=Weighted(L1(), weights()))
        X = gramian.residual(result.phi)
        assert X[:, 0, 2].abs().min() > 1e-3
        assert (X * (weights() > 0)).abs().max() < 1e-6

    def test_weights_for_each_of_many_groups(self) -> None:
        m = 2000  # more groups than a batch of the kernel
        W = torch.rand(m, 24, 24)
        penalty = Weighted(L1(), (W + W.mT) / 2)
        phi = torch.randn(30, m, 24)
        value, grad = gramian.value_and_grad(phi, penalty=penalty)
        with kernels.use("reference"):
            expected = gramian.value_and_grad(phi, penalty=penalty)
        torch.testing.assert_close((value, grad), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gramian.grad_group(phi, 1234, penalty=penalty), expected[1][:, 1234])
        twin = phi.clone()
        gramian.step_(twin, lr=0.01, penalty=penalty)
        alone = phi[:, 1990:].clone()
        gramian.step_(alone, lr=0.01, penalty=penalty.select_groups(slice(1990, None)))
        torch.testing.assert_close(twin[:, 1990:], alone)

    def test_weights_for_each_group_with_foreach(self) -> None:
        tensors = [draw(seed=i) for i in range(4)]
        penalty = Weighted(L1(), weights(M))
        total, grads = foreach.value_and_grad(tensors, penalty=penalty)
        for tensor, grad in zip(tensors, grads, strict=True):
            torch.testing.assert_close(grad, gramian.value_and_grad(tensor, penalty=penalty)[1])
        torch.testing.assert_close(total, sum(gramian.loss(tensor, penalty=penalty) for tensor in tensors))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (torch.ones(3), "must be of shape"),
            (torch.ones(2, 3), "must be of shape"),
            (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "must be symmetric"),
            (-torch.eye(2), "must be at least 0"),
            (torch.full((2, 2), math.nan), "must be finite"),
        ],
    )
    def test_invalid_weights(self, given, message) -> None:
        with pytest.raises(OptionError, match=message):
            Weighted(L1(), given)

    @pytest.mark.parametrize("base", [Spectral(), L1(diagonal=False), Coherence(), Cosine(L1())])
    def test_of_a_penalty_that_is_not_elementwise(self, base) -> None:
        with pytest.raises(OptionError, match="must be elementwise and include the diagonal; got"):
            Weighted(base, torch.eye(3))

    @pytest.mark.parametrize("penalty", [Weighted(L1(), torch.eye(5)), Weighted(L1(), torch.ones(2, N, N))])
    def test_for_other_sizes(self, penalty) -> None:
        with pytest.raises(ShapeError, match="must be for the groups of the parameter; got 3 of 4 vectors"):
            gramian.loss(draw(), penalty=penalty)

    def test_integer_weights(self) -> None:
        given = torch.ones(N, N, dtype=torch.int64)
        torch.testing.assert_close(gramian.loss(draw(), penalty=Weighted(L1(), given)), gramian.loss(draw()))


class TestTarget:
    @pytest.mark.parametrize("rule", ["proximal", "polyak"])
    def test_it_is_reached(self, rule) -> None:
        result = gramian.orthogonalize(draw(), penalty=TargetGram(L1(), gram()), rule=rule, max_steps=20000, tol=1e-9)
        assert result.converged
        P = result.phi.permute(1, 0, 2)
        torch.testing.assert_close(P.mT @ P, gram().expand(M, N, N), rtol=0, atol=1e-8)

    def test_from_orthonormal_it_leaves(self) -> None:
        phi = torch.linalg.qr(draw().permute(1, 0, 2)).Q.permute(1, 0, 2).contiguous()
        penalty = TargetGram(L1(), 4 * eye)
        before = gramian.loss(phi, penalty=penalty)
        gramian.step_(phi, lr=10.0, penalty=penalty)
        assert gramian.loss(phi, penalty=penalty) < before

    def test_invalid_targets(self) -> None:
        with pytest.raises(OptionError, match="must be positive semidefinite"):
            TargetGram(L1(), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
        with pytest.raises(OptionError, match="must have its minimum at 0"):
            TargetGram(TargetGram(L1(), eye), eye)
