"""Weights for pairs, other targets, cosines, sums and multiples, and a function of one's own."""

import math

import pytest
import torch
from torch import Tensor

import gramian
from gramian import foreach, kernels, training
from gramian.errors import OptionError, ShapeError
from gramian.penalties import (
    L1,
    Coherence,
    Cosine,
    Elementwise,
    Frobenius,
    Huber,
    Spectral,
    SquaredFrobenius,
    Sum,
    Target,
    Weighted,
)
from gramian.penalties.bisection import shrink_by_bisection

M, N, LENGTH = 3, 4, 7
TAUS = (0.0, 1e-3, 0.2, 3.0, math.inf)


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


def plain_cosines(P: Tensor) -> Tensor:
    unit = P / torch.linalg.vector_norm(P, dim=-2, keepdim=True)
    return unit.mT @ unit - torch.eye(P.shape[-1], dtype=P.dtype)


eye = torch.eye(N, dtype=torch.float64)


def draw(seed: int = 0, scale: float = 0.6) -> Tensor:
    return scale * torch.randn(LENGTH, M, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestWeights:
    def test_pairs_without_weight_stay_as_they_are_pulled(self) -> None:
        phi = draw()
        found = gramian.orthogonalize(phi, penalty=Weighted(L1(), weights()))
        X = gramian.residual(found.phi)
        assert X[:, 0, 2].abs().min() > 1e-3
        assert (X * (weights() > 0)).abs().max() < 1e-6

    def test_many_groups_of_their_own(self) -> None:
        m = 2000  # more than are held at a time
        W = torch.rand(m, 24, 24)
        penalty = Weighted(L1(), (W + W.mT) / 2)
        phi = torch.randn(30, m, 24)
        value, grad = gramian.value_and_grad(phi, penalty=penalty)
        with kernels.use("dense"):
            expected = gramian.value_and_grad(phi, penalty=penalty)
        torch.testing.assert_close((value, grad), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gramian.grad_group(phi, 1234, penalty=penalty), expected[1][:, 1234])
        twin = phi.clone()
        gramian.step_(twin, lr=0.01, penalty=penalty)
        alone = phi[:, 1990:].clone()
        gramian.step_(alone, lr=0.01, penalty=penalty.of_groups(slice(1990, None)))
        torch.testing.assert_close(twin[:, 1990:], alone)

    def test_many_tensors_do_not_share_them(self) -> None:
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
    def test_weights_that_are_none(self, given, message) -> None:
        with pytest.raises(OptionError, match=message):
            Weighted(L1(), given)

    @pytest.mark.parametrize("base", [Spectral(), L1(diagonal=False), Coherence(), Cosine(L1())])
    def test_of_what_is_no_sum_over_entries(self, base) -> None:
        with pytest.raises(OptionError, match="weights need a penalty of each entry"):
            Weighted(base, torch.eye(3))

    @pytest.mark.parametrize("penalty", [Weighted(L1(), torch.eye(5)), Weighted(L1(), torch.ones(2, N, N))])
    def test_for_other_sizes(self, penalty) -> None:
        with pytest.raises(ShapeError, match="must be for the groups of the parameter; got 3 of 4 vectors"):
            gramian.loss(draw(), penalty=penalty)

    def test_whole_numbers(self) -> None:
        given = torch.ones(N, N, dtype=torch.int64)
        torch.testing.assert_close(gramian.loss(draw(), penalty=Weighted(L1(), given)), gramian.loss(draw()))


class TestTarget:
    @pytest.mark.parametrize("rule", ["proximal", "polyak"])
    def test_it_is_reached(self, rule) -> None:
        found = gramian.orthogonalize(draw(), penalty=Target(L1(), gram()), rule=rule, max_steps=20000, tol=1e-9)
        assert found.converged
        P = found.phi.permute(1, 0, 2)
        torch.testing.assert_close(P.mT @ P, gram().expand(M, N, N), rtol=0, atol=1e-8)

    def test_from_orthonormal_it_leaves(self) -> None:
        phi = torch.linalg.qr(draw().permute(1, 0, 2)).Q.permute(1, 0, 2).contiguous()
        penalty = Target(L1(), 4 * eye)
        before = gramian.loss(phi, penalty=penalty)
        gramian.step_(phi, lr=10.0, penalty=penalty)
        assert gramian.loss(phi, penalty=penalty) < before

    def test_what_is_no_gram_matrix(self) -> None:
        with pytest.raises(OptionError, match="must be positive semi-definite"):
            Target(L1(), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
        with pytest.raises(OptionError, match="must be least at 0"):
            Target(Target(L1(), eye), eye)


class TestCosine:
    def test_lengths_do_not_matter(self) -> None:
        phi = draw()
        scales = torch.rand(1, M, N, dtype=torch.float64) + 0.1
        value, grad = gramian.value_and_grad(phi, penalty=Cosine(L1()))
        other, scaled = gramian.value_and_grad(phi * scales, penalty=Cosine(L1()))
        torch.testing.assert_close(other, value)
        torch.testing.assert_close(scaled * scales, grad)
        assert (grad * phi).sum(dim=0).abs().max() < 1e-12

    def test_a_vector_of_no_length_has_no_angle(self) -> None:
        phi = draw()
        phi[:, 1, 2] = 0
        value, grad = gramian.value_and_grad(phi, penalty=Cosine(L1()))
        assert value.isfinite()
        assert grad.isfinite().all()
        assert not grad[:, 1, 2].any()

    def test_a_bad_number_is_not_hidden(self) -> None:
        phi = draw()
        phi[0, 1, 2] = math.nan
        value, grad = gramian.value_and_grad(phi, penalty=Cosine(L1()))
        assert value.isnan()
        assert grad[:, 1].isnan().all()
        assert grad[:, 0].isfinite().all()

    def test_polyak_makes_right_angles(self) -> None:
        found = gramian.orthogonalize(draw(), penalty=Cosine(L1()), rule="polyak", max_steps=5000)
        assert found.converged
        assert plain_cosines(found.phi.permute(1, 0, 2)).abs().max() < 1e-5

    def test_there_is_no_shrink(self) -> None:
        with pytest.raises(OptionError, match="cosine form has no closed shrink; try rule='polyak'"):
            gramian.step_(draw(), lr=0.1, penalty=Cosine(L1()))


class TestSums:
    def test_they_are_flat_and_print_themselves(self) -> None:
        found = L1() + 2 * Huber() + Frobenius()
        assert isinstance(found, Sum)
        assert len(found.parts) == 3
        assert "factor=2.0" in repr(found)

    @pytest.mark.parametrize("factor", [-1.0, math.inf, math.nan])
    def test_by_what_nothing_can_be_multiplied(self, factor) -> None:
        with pytest.raises(OptionError, match="can be scaled by a finite number of at least 0"):
            factor * L1()

    @pytest.mark.parametrize("operation", [lambda: L1() + 1, lambda: L1() * "2"])
    def test_with_what_is_no_penalty(self, operation) -> None:
        with pytest.raises(TypeError):
            operation()

    def test_without_a_shrink(self) -> None:
        with pytest.raises(OptionError, match="a sum of penalties has a shrink only where"):
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
        targets, _ = training.select_parameters(model)
        assert training.loss(targets, beta=1.0, penalty=3 * L1()) < 0.1


class TestBisection:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("penalty", [L1(), Huber(), Huber(2.0), SquaredFrobenius()], ids=repr)
    def test_it_finds_the_closed_shrink(self, penalty, dtype) -> None:
        X = torch.cat([torch.linspace(-3, 3, 61, dtype=dtype), torch.tensor([1e-6, -1e-6], dtype=dtype)])[None]
        for tau in TAUS:
            t = torch.tensor(tau, dtype=dtype)
            found, expected = shrink_by_bisection(penalty.dual, X, t), penalty.shrink(X, t)
            torch.testing.assert_close(found, expected, rtol=0, atol=6 * torch.finfo(dtype).eps)
            if tau in (0.0, math.inf):
                assert torch.equal(found, expected)

    def test_where_there_is_no_slope_all_stays(self) -> None:
        penalty = Elementwise(lambda x: (x.abs() - 1).clamp_min(0), lambda x: x.sign() * (x.abs() > 1))
        found = penalty.shrink(torch.tensor([[0.5, 3.0]]), torch.tensor(math.inf))
        torch.testing.assert_close(found, torch.tensor([[0.0, 2.0]]))

    @pytest.mark.parametrize(
        ("function", "derivative", "message"),
        [
            (lambda x: x.abs() + 1, torch.sign, "function must be 0 at 0"),
            (lambda x: -x.abs(), lambda x: -x.sign(), "must be convex"),
            (lambda x: x.abs().sqrt(), lambda x: x.sign() / (2 * x.abs().sqrt() + 1e-9), "must be convex"),
            (torch.abs, lambda x: 2 * x, "derivative must be the slope of function; at -?9"),
            (lambda x: x.abs().sum(), torch.sign, "must act entry by entry"),
        ],
    )
    def test_functions_that_will_not_do(self, function, derivative, message) -> None:
        with pytest.raises(OptionError, match=message):
            Elementwise(function, derivative)
