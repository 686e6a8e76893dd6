"""Orthonormal bases of frozen vectors, the l1 of a cross-Gram against them, its gradient and its prox."""

import math

import pytest
import torch
from torch import Tensor

import gramian
from gramian import foreach
from gramian.errors import DataError, DtypeError, LayoutError, OptionError, ShapeError
from gramian.frozen import FrozenBasis
from gramian.rules import Step

ROWS = "o i -> i () o"


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def overlap(phi: Tensor, basis: FrozenBasis) -> Tensor:
    """QᵀΦ of every group, [m, k, n], in float64, from the definition."""
    Q = basis.Q.double().expand(-1, phi.shape[1], -1)
    return torch.einsum("lmk,lmn->mkn", Q, phi.double())


def is_orthonormal(basis: FrozenBasis) -> bool:
    Q = basis.Q.permute(1, 0, 2)
    return torch.allclose(Q.mT @ Q, torch.eye(basis.rank, dtype=Q.dtype).expand(len(Q), -1, -1), atol=1e-6)


class TestTheBasis:
    def test_of_independent_vectors_it_is_that_of_gram_and_schmidt(self) -> None:
        vectors = draw(9, 2, 4) * torch.tensor([1e-3, 1.0, 50.0, 1e6], dtype=torch.float64)
        basis = FrozenBasis(vectors)
        assert is_orthonormal(basis)
        for i in range(2):
            expected: list[Tensor] = []
            for vector in vectors[:, i].T:
                rest = vector - sum((q * (q @ vector) for q in expected), torch.zeros(9, dtype=torch.float64))
                expected.append(rest / rest.norm())
            torch.testing.assert_close(basis.Q[:, i], torch.stack(expected, dim=1), rtol=1e-6, atol=1e-6)

    def test_of_orthogonal_vectors_it_is_they_at_length_one(self) -> None:
        vectors = torch.linalg.qr(draw(12, 5)).Q
        basis = FrozenBasis(vectors * torch.tensor([1.0, -2.0, 3e-4, 1.0, 7.0], dtype=torch.float64))
        torch.testing.assert_close(
            basis.Q[:, 0], vectors * torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
        )

    def test_vectors_that_are_appended_do_not_change_it(self) -> None:
        first, second = draw(10, 3), draw(10, 2)
        torch.testing.assert_close(FrozenBasis([first, second]).Q[:, :, :3], FrozenBasis(first).Q)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    def test_dependent_vectors_add_nothing_up_to_rounding(self, dtype) -> None:
        first = draw(40, 3, dtype=dtype)
        mixed = (first.double() @ draw(3, 2)).to(dtype)
        last = draw(40, 2, dtype=dtype)
        basis = FrozenBasis([first, torch.zeros(40, 1, dtype=dtype), first, mixed, last])
        rounded = 2 if dtype == torch.bfloat16 else 0  # sums of several vectors, rounded, may count as new
        assert 5 <= basis.rank <= 5 + rounded
        assert is_orthonormal(basis)
        whole = FrozenBasis([first, last])
        torch.testing.assert_close(basis.Q[:, :, :3], whole.Q[:, :, :3])
        # The span of all is contained, also that of the vectors after the dependent ones.
        Q = basis.Q[:, 0].double()
        rest = last.double() - Q @ (Q.mT @ last.double())
        assert (rest.norm(dim=0) <= 1e-5 * last.double().norm(dim=0)).all()

    def test_groups_of_different_rank(self) -> None:
        vectors = draw(8, 2, 3)
        vectors[:, 1, 1] = 2 * vectors[:, 1, 0]
        basis = FrozenBasis(vectors)
        assert basis.rank == 3
        lengths = basis.Q.norm(dim=0)
        torch.testing.assert_close(lengths, torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64))

    def test_it_is_a_copy(self) -> None:
        vectors = torch.eye(4)[:, :2].clone()
        basis = FrozenBasis(vectors)
        vectors.zero_()
        assert basis.Q.abs().sum() == 2

    def test_conversions(self) -> None:
        basis = FrozenBasis(draw(6, 2, dtype=torch.bfloat16))
        assert basis.Q.dtype == torch.float32
        double = torch.zeros(1, dtype=torch.float64)
        assert basis.like(double).dtype == torch.float64
        assert basis.like(double) is basis.like(double)
        assert repr(basis) == "FrozenBasis(2 of 6 dimensions)"
        assert repr(FrozenBasis(draw(6, 3, 2))) == "FrozenBasis(2 of 6 dimensions, 3 groups)"

    @pytest.mark.parametrize(
        ("vectors", "error", "message"),
        [
            ([], OptionError, "at least one tensor of frozen vectors; got none; try against=None"),
            (torch.zeros(4, 2), DataError, "must not all be zero"),
            (torch.full((4, 2), math.nan), DataError, "must be finite"),
            (torch.eye(4), ShapeError, "span all l = 4 dimensions; try fewer"),
            (torch.ones(4, 2, dtype=torch.int64), DtypeError, "must be dense tensors of dtype float64"),
            ([torch.ones(4, 1), torch.ones(5, 1)], ShapeError, "same length l, and the same number of groups or one"),
            (torch.ones(2, 2, 2, 2), LayoutError, "frozen vectors: without a layout a tensor must be"),
        ],
    )
    def test_errors(self, vectors, error, message) -> None:
        with pytest.raises(error, match=message):
            FrozenBasis(vectors)


class TestTheLoss:
    def test_it_is_the_sum_over_the_basis(self) -> None:
        phi, basis = draw(10, 3, 4), FrozenBasis(draw(10, 2))
        expected = sum(
            abs(float(basis.Q[:, 0, j] @ phi[:, i, k])) for i in range(3) for j in range(2) for k in range(4)
        )
        assert gramian.loss(phi, beta=0.0, against=basis, against_beta=0.7).item() == pytest.approx(0.7 * expected)
        both = gramian.loss(phi, beta=0.3, against=basis)
        torch.testing.assert_close(both, gramian.loss(phi, beta=0.3) + 0.3 * expected)

    @pytest.mark.parametrize("groups", [1, 3])
    def test_gradient_four_ways(self, groups) -> None:
        phi = draw(10, 3, 4).requires_grad_()
        basis = FrozenBasis(draw(10, groups, 2))
        options = {"beta": 0.3, "against": basis, "against_beta": 0.8}
        value, grad = gramian.value_and_grad(phi, **options)
        loss = gramian.loss(phi, **options)
        torch.testing.assert_close(loss, value)
        (by_autograd,) = torch.autograd.grad(loss, phi)
        Q = basis.Q.expand(-1, 3, -1)
        S = overlap(phi.detach(), basis).sign()
        formula = 0.8 * torch.einsum("lmk,mkn->lmn", Q, S) + gramian.value_and_grad(phi, beta=0.3)[1]
        torch.testing.assert_close(grad, by_autograd)
        torch.testing.assert_close(grad, formula)
        direction = draw(10, 3, 4)
        ahead, behind = (gramian.loss(phi.detach() + h * direction, **options) for h in (1e-6, -1e-6))
        torch.testing.assert_close((grad * direction).sum(), (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)
        assert grad.abs().max() > 0.1

    def test_subgradient_inequality_where_it_is_zero(self) -> None:
        basis = FrozenBasis(draw(8, 2))
        phi = foreach_projected(draw(8, 1, 3), basis)
        value, grad = gramian.value_and_grad(phi, beta=0.0, against=basis, against_beta=1.0)
        for _ in range(20):
            other = draw(8, 1, 3)
            ahead = gramian.loss(other, beta=0.0, against=basis, against_beta=1.0)
            assert ahead >= value + (grad * (other - phi)).sum() - 1e-9

    def test_with_a_layout_and_several_tensors(self) -> None:
        weight, olds = draw(4, 12), [draw(3, 12), draw(5, 12)]
        rows = gramian.loss(weight, layout=ROWS, against=olds, beta=0.0, against_beta=1.0)
        columns = gramian.loss(weight.T, against=torch.cat(olds).T, beta=0.0, against_beta=1.0)
        torch.testing.assert_close(rows, columns)

    def test_under_vmap_and_grad(self) -> None:
        phis, basis = draw(3, 8, 2, 2), FrozenBasis(draw(8, 2))

        def loss(phi: Tensor) -> Tensor:
            return gramian.loss(phi, beta=0.0, against=basis, against_beta=1.0)

        grads = torch.func.vmap(torch.func.grad(loss))(phis)
        expected = gramian.value_and_grad(phis[1], beta=0.0, against=basis, against_beta=1.0)[1]
        torch.testing.assert_close(grads[1], expected)

    def test_a_nan_reaches_its_group_only(self) -> None:
        phi = draw(8, 2, 3)
        phi[3, 1, 0] = math.nan
        value, grad = gramian.value_and_grad(phi, beta=0.0, against=draw(8, 2), against_beta=1.0)
        assert value.isnan()
        assert grad[:, 0].isfinite().all()
        assert grad[:, 1].isnan().all()


def foreach_projected(phi: Tensor, basis: FrozenBasis) -> Tensor:
    result = phi.clone()
    gramian.step_(result, lr=1.0, beta=0.0, against=basis, against_beta=math.inf)
    return result


class TestTheStep:
    def test_it_is_the_prox_by_numerical_minimisation(self) -> None:
        phi, basis, lr, beta = draw(6, 1, 2), FrozenBasis(draw(6, 2)), 0.2, 0.9
        stepped = phi.clone()
        gramian.step_(stepped, lr=lr, beta=0.0, against=basis, against_beta=beta)

        def objective(other: Tensor) -> Tensor:
            return lr * beta * overlap(other, basis).abs().sum() + 0.5 * (other - phi).square().sum()

        least = objective(stepped)
        for size in (1e-3, 1e-2, 0.1, 1.0):
            for _ in range(50):
                assert objective(stepped + size * draw(6, 1, 2)) > least
        # By subgradient descent with decreasing steps, from elsewhere.
        point, best = phi.clone(), math.inf
        for step in range(2000):
            S = torch.einsum("lmk,mkn->lmn", basis.Q, overlap(point, basis).sign())
            point = point - (lr * beta * S + point - phi) / (step + 2)
            best = min(best, objective(point).item())
        assert best == pytest.approx(least.item(), rel=1e-3)
        assert best >= least.item() - 1e-12

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_zero_at_a_finite_beta_and_not_below_the_threshold(self, dtype) -> None:
        basis = FrozenBasis(draw(64, 4, dtype=dtype))
        phi = foreach_projected(draw(64, 1, 8, dtype=dtype), basis)
        assert overlap(phi, basis).abs().max() <= 2 * torch.finfo(dtype).eps * phi.double().norm(dim=0).max()
        Q, lr = basis.Q[:, 0].double(), 0.1
        pull = torch.zeros(4, 8, dtype=torch.float64)
        pull[0], pull[1], pull[2, 5] = 0.99, -0.99, 1.5
        moved = (phi.double() - lr * (Q @ pull)[:, None]).to(dtype)
        gramian.step_(moved, lr=lr, beta=0.0, against=basis, against_beta=1.0)
        left = overlap(moved, basis)[0]
        rounding = 4 * torch.finfo(dtype).eps * phi.double().norm(dim=0).max().item()
        assert left[2, 5].item() == pytest.approx(-lr * 0.5, abs=rounding)  # what exceeds β
        left[2, 5] = 0
        assert left.abs().max() <= rounding

    def test_the_threshold_depends_on_no_rank_and_no_length(self) -> None:
        for n, k, scale in ((1, 1, 1.0), (4, 16, 1e-2), (16, 4, 1e3), (64, 64, 1.0)):
            old = scale * draw(256, k) @ torch.diag(torch.logspace(0, 3, k, dtype=torch.float64))
            basis = FrozenBasis(old)
            phi = foreach_projected(draw(256, 1, n), basis)
            for pull, zero in ((0.999, True), (1.001, False)):
                moved = phi - 0.01 * pull * (basis.Q[:, 0] @ torch.ones(k, n, dtype=torch.float64))[:, None]
                gramian.step_(moved, lr=0.01, beta=0.0, against=basis, against_beta=1.0)
                assert (overlap(moved, basis).abs().max().item() < 1e-12) == zero

    @pytest.mark.parametrize("rule", ["proximal", "polyak", "subgradient"])
    def test_the_rule_keeps_what_is_zero(self, rule) -> None:
        basis = FrozenBasis(draw(20, 2, 3))
        phi = foreach_projected(0.4 * draw(20, 2, 4), basis)
        twin = phi.clone()
        for _ in range(30):
            gramian.step_(phi, lr=0.02, beta=1.0, rule=rule, against=basis)
            gramian.step_(twin, lr=0.02, beta=1.0, rule=rule)
        assert overlap(twin, basis).abs().max() < 1e-12  # without another step against the frozen vectors
        torch.testing.assert_close(phi, twin)
        assert gramian.loss(twin) < 0.2 * gramian.loss(foreach_projected(0.4 * draw(20, 2, 4), basis))

    def test_both_are_the_training_of_the_coordinates_in_the_complement(self) -> None:
        basis = FrozenBasis(draw(12, 3))
        N = torch.linalg.qr(torch.cat([basis.Q[:, 0], draw(12, 9)], dim=1)).Q[:, 3:]
        target, z = draw(12, 4), 0.3 * draw(9, 4)
        phi = N @ z
        for _ in range(20):
            phi -= 0.05 * (phi - target)
            gramian.step_(phi, lr=0.05, beta=0.5, against=basis, against_beta=30.0)
            z -= 0.05 * (z - N.mT @ target)
            gramian.step_(z, lr=0.05, beta=0.5)
        torch.testing.assert_close(phi, N @ z)

    def test_it_ends_at_zero_in_finitely_many_steps(self) -> None:
        basis, phi = FrozenBasis(draw(20, 3)), draw(20, 1, 4)
        largest = overlap(phi, basis).abs().max().item()
        count = math.ceil(largest / 0.1)
        for _ in range(count):
            gramian.step_(phi, lr=0.1, beta=0.0, against=basis, against_beta=1.0)
        assert overlap(phi, basis).abs().max() < 1e-12
        phi = torch.nn.functional.normalize(draw(20, 1, 4), dim=0)
        for _ in range(200):
            gramian.step_(phi, lr=0.05, beta=1.0, against=basis)
        assert overlap(phi, basis).abs().max() < 1e-12
        assert gramian.residual(phi).abs().max() < 1e-12

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_many_at_once_are_the_same_numbers(self, dtype) -> None:
        shapes = [(30, 4), (30, 4), (30, 2, 4), (30, 2, 4), (30, 4), (600, 300)]
        tensors = [(draw(*shape) / shape[0] ** 0.5).to(dtype) for shape in shapes]
        shared, by_group = FrozenBasis(draw(30, 3)), FrozenBasis(draw(30, 2, 3))
        against = [shared, FrozenBasis(draw(30, 3)), by_group, shared, None, draw(600, 5)]
        expected = [tensor.clone() for tensor in tensors]
        total = foreach.step_(tensors, lr=0.02, beta=0.4, against=against, against_beta=3.0)
        losses = [
            gramian.step_(each, lr=0.02, beta=0.4, against=old, against_beta=3.0)
            for each, old in zip(expected, against, strict=True)
        ]
        tolerance = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-5}
        torch.testing.assert_close(tensors, expected, **tolerance)
        torch.testing.assert_close(total, torch.stack(losses).sum())

    def test_the_loss_before(self) -> None:
        basis = FrozenBasis(draw(10, 2))
        phi = draw(10, 3)
        expected = gramian.loss(phi, beta=0.0, against=basis, against_beta=0.6)
        within = gramian.loss(foreach_projected(phi[:, None], basis))
        value = gramian.step_(phi, lr=100.0, beta=1.0, against=basis, against_beta=0.6)
        torch.testing.assert_close(value, expected + within)

    def test_a_rule_that_fails_writes_nothing(self) -> None:
        def broken(phi: Tensor, *, lr: float, beta: float, penalty: gramian.Penalty) -> Step:
            return Step(phi[:1], phi.sum())

        phi = draw(10, 1, 3)
        before = phi.clone()
        with pytest.raises(ShapeError, match="the change that a rule returns"):
            gramian.step_(phi, lr=0.1, rule=broken, against=draw(10, 2))
        assert torch.equal(phi, before)

    def test_through_a_layout_that_copies(self) -> None:
        weight, olds = draw(6, 4), draw(6, 4)
        layout = gramian.Layout("(a b) c -> (c a) () b", a=2)
        stepped = layout.to_phi(weight).clone()
        gramian.step_(stepped, lr=0.1, against=layout.to_phi(olds))
        gramian.step_(weight, lr=0.1, against=olds, layout=layout)
        torch.testing.assert_close(layout.to_phi(weight), stepped)

    def test_errors(self) -> None:
        phi = draw(6, 2, 3)
        before = phi.clone()
        for against, error, message in (
            (draw(5, 2), ShapeError, "length l = 6 of the parameter's vectors"),
            (draw(6, 3, 2), ShapeError, "for each of its m = 2 groups; got l = 6, m = 3"),
            ([], OptionError, "try against=None"),
        ):
            with pytest.raises(error, match=message):
                gramian.step_(phi, lr=0.1, against=against)
            with pytest.raises(error, match="tensor 1: .*" + message):
                foreach.step_([draw(6, 2), phi], lr=0.1, against=[None, against])
        for strength in (-1.0, math.nan):
            with pytest.raises(OptionError, match="against_beta must be 0 or positive"):
                gramian.step_(phi, lr=0.1, against=draw(6, 2), against_beta=strength)
        with pytest.raises(OptionError, match="against_beta must be finite"):
            gramian.loss(phi, against=draw(6, 2), against_beta=math.inf)
        with pytest.raises(OptionError, match=r"for each tensor; got 1 for 2 tensors"):
            foreach.step_([phi, draw(6, 2)], lr=0.1, against=[None])
        assert torch.equal(phi, before)


class TestTheHardConstraint:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    def test_orthonormal_in_the_complement(self, dtype) -> None:
        weights = [draw(32, 3, 8, dtype=dtype), draw(16, 4, dtype=dtype)]
        bases = [FrozenBasis(draw(32, 5)), FrozenBasis(draw(16, 2))]
        losses = sum(
            gramian.loss(weight, beta=0.0, against=basis, against_beta=1.0).item()
            for weight, basis in zip(weights, bases, strict=True)
        )
        result = foreach.restore_(weights, against=bases)
        assert result.converged
        assert result.loss >= losses
        for weight, basis in zip(weights, bases, strict=True):
            eps = torch.finfo(dtype).eps
            assert gramian.residual(weight).abs().max() <= 4 * eps
            assert overlap(weight if weight.ndim == 3 else weight[:, None], basis).abs().max() <= 4 * eps

    def test_it_needs_room(self) -> None:
        with pytest.raises(ShapeError, match=r"tensor 0: orthonormal groups need n <= l - k dimensions"):
            foreach.restore_([draw(8, 4)], against=[draw(8, 5)])
