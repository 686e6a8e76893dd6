"""The loss and its closed-form derivatives, against loops, differences, inequalities and float64."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import gramian
from gramian.errors import DtypeError, OptionError, ShapeError
from tests import oracle
from tests.cases import (
    over_all_shapes,
    over_draws,
    over_penalties,
    over_shapes,
    overcomplete_is_meant,
    plain_loss,
    stiefel,
)

BETA = 0.7


def as_tensor(nested) -> torch.Tensor:
    return torch.tensor(nested, dtype=torch.float64)


def kinked(shape: tuple[int, int, int]) -> torch.Tensor:
    """Integers: many inner products are exactly 0, and many norms exactly 1."""
    return torch.randint(-1, 2, shape).double()


@overcomplete_is_meant
@over_penalties
@over_all_shapes
class TestAgainstTheOracle:
    def test_value_and_gradient(self, case, shape) -> None:
        for phi in (torch.randn(shape, dtype=torch.float64), kinked(shape), torch.zeros(shape, dtype=torch.float64)):
            value, grad = gramian.value_and_grad(phi, beta=BETA, penalty=case.penalty)
            expected = as_tensor(oracle.gradient(phi.tolist(), BETA, case.dual))
            torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-12)
            assert value.item() == pytest.approx(oracle.loss(phi.tolist(), BETA, case.value), rel=1e-12, abs=1e-12)
            assert gramian.loss(phi, beta=BETA, penalty=case.penalty).item() == pytest.approx(value.item(), rel=1e-12)

    def test_parts_of_the_gradient(self, case, shape) -> None:
        length, m, n = shape
        phi = torch.randn(shape, dtype=torch.float64)
        grad = as_tensor(oracle.gradient(phi.tolist(), BETA, case.dual))
        options = {"beta": BETA, "penalty": case.penalty}
        close = {"rtol": 1e-12, "atol": 1e-12}
        for a in range(-m, m):
            torch.testing.assert_close(gramian.grad_group(phi, a, **options), grad[:, a, :], **close)
            for b in range(-n, n):
                torch.testing.assert_close(gramian.grad_vector(phi, a, b, **options), grad[:, a, b], **close)
        for p in range(-length, length):
            torch.testing.assert_close(gramian.grad_slice(phi, p, **options), grad[p], **close)

    def test_residual(self, case, shape) -> None:
        phi = torch.randn(shape, dtype=torch.float64)
        expected = [oracle.residual(oracle.group(phi.tolist(), i)) for i in range(shape[1])]
        torch.testing.assert_close(gramian.residual(phi), as_tensor(expected), rtol=1e-12, atol=1e-12)

    def test_inequality_at_kinks_and_elsewhere(self, case, shape) -> None:
        # μ is convex and X(P + D) = X + PᵀD + DᵀP + DᵀD, so L(P + D) ≥ L(P) + ⟨∂L, D⟩ + β⟨G, DᵀD⟩ for any G ∈ ∂μ(X):
        # the subgradient inequality of a weakly convex function. For l1 and large D it is all that holds at a kink.
        for phi in (kinked(shape), torch.randn(shape, dtype=torch.float64)):
            value, grad = gramian.value_and_grad(phi, beta=BETA, penalty=case.penalty)
            G = case.penalty.dual(gramian.residual(phi))
            for scale in (1e-4, 1e-2, 1.0, 10.0):
                D = scale * torch.randn(shape, dtype=torch.float64)
                bend = BETA * (G * gramian.residual(D).add(torch.eye(shape[2], dtype=torch.float64))).sum()
                below = value + (grad * D).sum() + bend
                assert gramian.loss(phi + D, beta=BETA, penalty=case.penalty) >= below - 1e-10 * (1 + below.abs())


@over_penalties
@over_draws
def test_central_differences_away_from_kinks(case, draw) -> None:
    phi = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(draw))
    assert gramian.residual(phi).abs().min() > 1e-4
    grad = gramian.value_and_grad(phi, beta=BETA, penalty=case.penalty)[1]
    slope = oracle.central_difference(lambda moved: oracle.loss(moved, BETA, case.value), phi.tolist())
    torch.testing.assert_close(grad, as_tensor(slope), rtol=1e-6, atol=1e-6)


@over_penalties
def test_a_gradient_that_is_wrong_would_be_seen(case) -> None:
    phi = torch.randn(5, 2, 3, dtype=torch.float64)
    slope = as_tensor(oracle.central_difference(lambda moved: oracle.loss(moved, 1.0, case.value), phi.tolist()))
    P, X = phi.permute(1, 0, 2), gramian.residual(phi)
    G = case.penalty.dual(X)
    assert slope.abs().min() > 1e-3
    for wrong in (G, 2 * (G - torch.diag_embed(G.diagonal(dim1=1, dim2=2))), 2 * G.triu(), -2 * G):
        assert ((P @ wrong).permute(1, 0, 2) - slope).abs().max() > 1e-2


@over_penalties
@over_shapes
def test_zero_at_orthonormal_groups(case, shape) -> None:
    phi = stiefel(*shape)
    assert gramian.loss(phi, penalty=case.penalty) < 1e-12
    exact = torch.eye(shape[0], dtype=torch.float64)[:, None, : shape[2]].expand(shape).contiguous()
    value, grad = gramian.value_and_grad(exact, penalty=case.penalty)
    assert value == 0
    assert not grad.any()


@over_penalties
@over_draws
class TestLaws:
    """Invariances of L, and what they make of its gradient."""

    shape = (6, 4, 3)

    def grad(self, phi: torch.Tensor, case) -> torch.Tensor:
        grad = gramian.value_and_grad(phi, beta=BETA, penalty=case.penalty)[1]
        assert grad.abs().max() > 1e-2
        return grad

    def test_rotation(self, case, draw) -> None:
        phi = torch.randn(self.shape, dtype=torch.float64)
        Q = stiefel(6, 1, 6)[:, 0, :]
        turned = torch.einsum("kl,lmn->kmn", Q, phi)
        torch.testing.assert_close(
            gramian.loss(turned, penalty=case.penalty), gramian.loss(phi, penalty=case.penalty), rtol=1e-12, atol=0
        )
        torch.testing.assert_close(self.grad(turned, case), torch.einsum("kl,lmn->kmn", Q, self.grad(phi, case)))

    def test_permutation_of_groups_and_members(self, case, draw) -> None:
        phi = torch.randn(self.shape, dtype=torch.float64)
        groups, members = torch.randperm(4), torch.randperm(3)
        mixed = phi[:, groups][:, :, members]
        torch.testing.assert_close(self.grad(mixed, case), self.grad(phi, case)[:, groups][:, :, members])
        torch.testing.assert_close(
            gramian.loss(mixed, penalty=case.penalty), gramian.loss(phi, penalty=case.penalty), rtol=1e-12, atol=0
        )

    def test_sign_of_a_vector(self, case, draw) -> None:
        phi = torch.randn(self.shape, dtype=torch.float64)
        signs = torch.randint(0, 2, (1, 4, 3)) * 2 - 1
        torch.testing.assert_close(self.grad(phi * signs, case), self.grad(phi, case) * signs)

    def test_sum_over_groups(self, case, draw) -> None:
        phi = torch.randn(self.shape, dtype=torch.float64)
        parts = [gramian.value_and_grad(phi[:, i : i + 1], beta=BETA, penalty=case.penalty) for i in range(4)]
        value, grad = gramian.value_and_grad(phi, beta=BETA, penalty=case.penalty)
        torch.testing.assert_close(value, sum(part[0] for part in parts))
        torch.testing.assert_close(grad, torch.cat([part[1] for part in parts], dim=1))

    def test_linear_in_beta(self, case, draw) -> None:
        phi = torch.randn(self.shape, dtype=torch.float64)
        value, grad = gramian.value_and_grad(phi, penalty=case.penalty)
        for beta in (0, 0.25, 3):
            scaled = gramian.value_and_grad(phi, beta=beta, penalty=case.penalty)
            torch.testing.assert_close(scaled, (beta * value, beta * grad))


class LargestTensor(TorchDispatchMode):
    """Record the number of elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


class TestCost:
    @overcomplete_is_meant
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_one_vector_takes_one_column_of_the_residual(self, dtype) -> None:
        phi = torch.randn(8, 3, 64, dtype=dtype)
        with LargestTensor() as seen, FlopCounterMode(display=False) as flops:
            gramian.grad_vector(phi, 1, 5)
        # Of one group at most: no [n, n] matrix, of 4096 elements, and no product over all groups.
        assert seen.largest <= max(8 * 64, phi.numel())
        assert flops.get_total_flops() <= 4 * 8 * 64
        with LargestTensor() as seen:
            gramian.grad_group(phi, 1)
        assert seen.largest == 64 * 64

    @pytest.mark.usefixtures("dense_kernel")
    def test_one_group_does_not_touch_the_others(self) -> None:
        phi = torch.randn(16, 50, 8)
        with FlopCounterMode(display=False) as flops:
            gramian.grad_group(phi, 7)
        assert flops.get_total_flops() == 4 * 16 * 8 * 8
        with FlopCounterMode(display=False) as flops:
            gramian.value_and_grad(phi)
        assert flops.get_total_flops() == 50 * 4 * 16 * 8 * 8
        with FlopCounterMode(display=False) as flops:
            gramian.grad_slice(phi, 3)
        assert flops.get_total_flops() == 50 * (2 * 16 * 8 * 8 + 2 * 8 * 8)


def root_mean_square(error: torch.Tensor) -> float:
    return error.double().square().mean().sqrt().item()


@over_penalties
class TestPrecision:
    """The twice-the-error rule: at most twice what plain torch errs that computes in float32 and rounds once."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("shape", [(64, 5, 8), (33, 2, 17), (300, 1, 100)], ids=str)
    def test_against_float64(self, case, dtype, shape) -> None:
        phi = torch.randn(shape).to(dtype)
        exact = phi.double().requires_grad_()
        reference = plain_loss(exact, case, BETA)
        (reference_grad,) = torch.autograd.grad(reference, exact)
        single = phi.float().clone().requires_grad_()
        plain = plain_loss(single, case, BETA)
        (plain_grad,) = torch.autograd.grad(plain, single)

        value, grad = gramian.value_and_grad(phi, beta=BETA, penalty=case.penalty)
        through_autograd = phi.clone().requires_grad_()
        gramian.loss(through_autograd, beta=BETA, penalty=case.penalty).backward()
        assert value.dtype == torch.float32
        assert grad.dtype == through_autograd.grad.dtype == dtype
        error = plain_grad.to(dtype).double() - reference_grad
        allowed = 2 * root_mean_square(error)
        assert root_mean_square(grad.double() - reference_grad) <= allowed
        assert root_mean_square(through_autograd.grad.double() - reference_grad) <= allowed
        # One number can be right by luck: allow the rounding of a sum of float32 besides.
        floor = 4 * torch.finfo(torch.float32).eps * reference.item()
        assert abs(value.item() - reference.item()) <= 2 * abs(plain.item() - reference.item()) + floor

        group = gramian.grad_group(phi, 0, beta=BETA, penalty=case.penalty)
        # A part of the gradient may fall on the part where the plain one errs most.
        allowed_in_group = 2 * max(root_mean_square(part) for part in error.unbind(1))
        assert root_mean_square(group.double() - reference_grad[:, 0]) <= allowed_in_group
        vector = gramian.grad_vector(phi, 0, 1, beta=BETA, penalty=case.penalty)
        allowed_in_vector = 2 * max(root_mean_square(part) for part in error.flatten(1).unbind(1))
        assert root_mean_square(vector.double() - reference_grad[:, 0, 1]) <= allowed_in_vector
        row = gramian.grad_slice(phi, 3, beta=BETA, penalty=case.penalty)
        allowed_in_row = 2 * max(root_mean_square(part) for part in error.unbind(0))
        assert root_mean_square(row.double() - reference_grad[3]) <= allowed_in_row
        assert group.dtype == vector.dtype == row.dtype == dtype

    def test_float64_against_long_double(self, case) -> None:
        phi = torch.randn(64, 3, 8, dtype=torch.float64)
        wide = phi.numpy().astype(np.longdouble)
        exact = np.stack([self.long_double_gradient(wide[:, i, :], case) for i in range(3)], axis=1)
        leaf = phi.clone().requires_grad_()
        (plain,) = torch.autograd.grad(plain_loss(leaf, case), leaf)
        grad = gramian.value_and_grad(phi, penalty=case.penalty)[1]
        error = np.sqrt(np.mean((grad.numpy() - exact) ** 2))
        assert error <= 2 * np.sqrt(np.mean((plain.numpy() - exact) ** 2))

    @staticmethod
    def long_double_gradient(P: np.ndarray, case) -> np.ndarray:
        X = P.T @ P - np.eye(P.shape[1], dtype=np.longdouble)
        return 2 * P @ np.array(case.dual([list(row) for row in X]), dtype=np.longdouble)

    def test_float16_accumulates_in_float32(self, case) -> None:
        phi = torch.full((64, 1, 2), 100.0, dtype=torch.float16)  # inner products of 640000; float16 ends at 65504
        value = gramian.loss(phi, beta=1e-6, penalty=case.penalty)
        exact = plain_loss(phi.double(), case, 1e-6)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
        assert gramian.residual(phi).min() > 6e5
        assert gramian.grad_vector(phi, 0, 1, beta=1e-6, penalty=case.penalty).isfinite().all()
        assert gramian.value_and_grad(phi, beta=1e-6, penalty=case.penalty)[1].isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_a_loss_scale_acts_before_the_rounding(self, case, dtype) -> None:
        phi = torch.randn(16, 2, 4).to(dtype).requires_grad_()
        scale, beta = 2.0**20, 2.0**-28  # β alone would be below float16's smallest number
        (gramian.loss(phi, beta=beta, penalty=case.penalty) * scale).backward()
        single = phi.detach().float().requires_grad_()
        (plain,) = torch.autograd.grad(plain_loss(single, case, beta * scale), single)
        assert plain.to(dtype).any()
        torch.testing.assert_close(phi.grad, plain.to(dtype))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_autocast_changes_nothing(self, case, dtype) -> None:
        for phi in (torch.randn(32, 2, 20), torch.randn(32, 2, 20, dtype=torch.float64)):
            with torch.autocast("cpu", dtype=dtype):
                results = self.everything(phi, case)
            for got, expected in zip(results, self.everything(phi, case), strict=True):
                assert got.dtype == expected.dtype
                assert torch.equal(got, expected)

    @staticmethod
    def everything(phi: torch.Tensor, case) -> list[torch.Tensor]:
        leaf, stepped = phi.clone().requires_grad_(), phi.clone()
        value = gramian.loss(leaf, penalty=case.penalty)
        (grad,) = torch.autograd.grad(value, leaf)
        before = gramian.step_(stepped, lr=0.1, penalty=case.penalty)
        return [
            value.detach(),
            grad,
            *gramian.value_and_grad(phi, penalty=case.penalty),
            gramian.grad_vector(phi, 0, 0, penalty=case.penalty),
            gramian.grad_slice(phi, 0, penalty=case.penalty),
            gramian.residual(phi),
            before,
            stepped,
        ]


@over_penalties
@pytest.mark.parametrize(
    "strided",
    [
        lambda phi: phi.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        lambda phi: phi.permute(1, 0, 2).contiguous().permute(1, 0, 2),
        lambda phi: torch.stack([phi, phi], dim=-1)[..., 1],
        lambda phi: torch.cat([phi, phi], dim=0)[:6],
        lambda phi: phi.repeat_interleave(2, dim=0)[::2],
    ],
    ids=["reversed", "by group", "every other", "a slice", "rows apart"],
)
def test_strides_do_not_matter(case, strided) -> None:
    phi = torch.randn(6, 3, 4, dtype=torch.float64)
    view = strided(phi)
    assert view.stride() != phi.stride() or view.untyped_storage().size() != phi.untyped_storage().size()
    torch.testing.assert_close(
        gramian.value_and_grad(view, penalty=case.penalty), gramian.value_and_grad(phi, penalty=case.penalty)
    )
    torch.testing.assert_close(
        gramian.grad_vector(view, 1, 2, penalty=case.penalty), gramian.grad_vector(phi, 1, 2, penalty=case.penalty)
    )


def test_an_expanded_group_counts_as_often_as_it_is_there() -> None:
    phi = torch.randn(6, 1, 4, dtype=torch.float64)
    torch.testing.assert_close(gramian.loss(phi.expand(6, 3, 4)), 3 * gramian.loss(phi))


def test_the_input_is_not_written_to_and_the_gradient_is_its_own() -> None:
    phi = torch.randn(6, 3, 4)
    before, version = phi.clone(), phi._version
    grad = gramian.value_and_grad(phi)[1]
    gramian.grad_group(phi, 0)
    gramian.grad_vector(phi, 0, 0)
    gramian.grad_slice(phi, 0)
    gramian.residual(phi)
    grad.zero_()
    assert torch.equal(phi, before)
    assert phi._version == version


def test_a_layout_is_undone_in_the_gradient() -> None:
    weight = torch.randn(8, 5)
    layout = gramian.Layout("(m n) i -> i m n", n=4)
    value, grad = gramian.value_and_grad(weight, layout=layout)
    plain_value, plain_grad = gramian.value_and_grad(layout.to_phi(weight))
    assert grad.shape == weight.shape
    assert torch.equal(value, plain_value)
    assert torch.equal(layout.to_phi(grad), plain_grad)
    assert torch.equal(gramian.grad_group(weight, 1, layout=layout), plain_grad[:, 1, :])
    assert torch.equal(gramian.residual(weight, layout=layout), gramian.residual(layout.to_phi(weight)))


def test_no_graph_is_built() -> None:
    phi = torch.randn(6, 3, 4, requires_grad=True)
    value, grad = gramian.value_and_grad(phi)
    assert not value.requires_grad
    assert not grad.requires_grad
    assert not gramian.grad_group(phi, 0).requires_grad
    assert not gramian.grad_vector(phi, 0, 0).requires_grad
    assert not gramian.grad_slice(phi, 0).requires_grad


@over_penalties
@pytest.mark.parametrize("entry", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", [(0, 1, 0), (4, 1, 2)], ids=str)
class TestEntriesThatAreNotFinite:
    def test_they_stay_in_their_group_and_fill_it(self, case, entry, where) -> None:
        phi = torch.randn(5, 3, 3)
        clean_grad = gramian.value_and_grad(phi, penalty=case.penalty)[1]
        phi[where] = entry
        value, grad = gramian.value_and_grad(phi, penalty=case.penalty)
        assert not value.isfinite()
        assert grad[:, 1].isnan().all()
        assert torch.equal(grad[:, [0, 2]], clean_grad[:, [0, 2]])

        leaf = phi.clone().requires_grad_()
        loss = gramian.loss(leaf, penalty=case.penalty)
        loss.backward()
        assert not loss.isfinite()
        assert torch.equal(leaf.grad, grad) or torch.equal(leaf.grad.isnan(), grad.isnan())

        assert gramian.grad_group(phi, 1, penalty=case.penalty).isnan().all()
        assert torch.equal(gramian.grad_group(phi, 0, penalty=case.penalty), clean_grad[:, 0])
        assert gramian.grad_slice(phi, 2, penalty=case.penalty)[1].isnan().all()
        for b in range(3):
            assert gramian.grad_vector(phi, 1, b, penalty=case.penalty).isnan().all()
            assert gramian.grad_vector(phi, 0, b, penalty=case.penalty).isfinite().all()


@overcomplete_is_meant
@pytest.mark.parametrize(
    ("shape", "expected"), [((3, 0, 2), 0.0), ((3, 2, 0), 0.0), ((0, 2, 0), 0.0), ((0, 2, 3), 6.0)]
)
def test_an_empty_axis_gives_an_empty_sum(shape, expected) -> None:
    # With l = 0 every vector is the empty one: PᵀP = 0, X = −I and L = m·n.
    phi = torch.empty(shape, requires_grad=True)
    value, grad = gramian.value_and_grad(phi)
    assert value.item() == gramian.loss(phi).item() == expected
    gramian.loss(phi).backward()
    assert grad.shape == phi.grad.shape == shape
    assert gramian.residual(phi).shape == (shape[1], shape[2], shape[2])


class TestErrors:
    @pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf"), -1e-30])
    def test_beta(self, beta) -> None:
        phi = torch.eye(3)
        for ask in (
            lambda: gramian.loss(phi, beta=beta),
            lambda: gramian.value_and_grad(phi, beta=beta),
            lambda: gramian.grad_group(phi, 0, beta=beta),
            lambda: gramian.grad_vector(phi, 0, 0, beta=beta),
            lambda: gramian.grad_slice(phi, 0, beta=beta),
        ):
            with pytest.raises(OptionError, match=r"beta must be a finite number of at least 0; got .*; try beta=1\.0"):
                ask()

    @pytest.mark.parametrize("beta", ["strong", None, [1.0], torch.ones(3)], ids=["str", "None", "list", "tensor"])
    def test_beta_that_is_no_number(self, beta, unchecked) -> None:
        with pytest.raises(OptionError, match=rf"beta must be a number; got {type(beta).__name__}; try"):
            gramian.loss(torch.eye(3), beta=beta)

    def test_penalty(self, unchecked) -> None:
        for penalty in ("l2", 3, gramian.penalties.L1):  # pyright: ignore
            with pytest.raises(OptionError, match=r"penalty must be one of 'l1', .* or a gramian\.Penalty; got"):
                gramian.loss(torch.eye(3), penalty=penalty)

    @pytest.mark.parametrize("index", [3, -4, 100])
    def test_index_out_of_range(self, index) -> None:
        phi = torch.ones(3, 3, 3)
        for ask, name, what in (
            (lambda: gramian.grad_group(phi, index), "a", "group"),
            (lambda: gramian.grad_vector(phi, index, 0), "a", "group"),
            (lambda: gramian.grad_vector(phi, 0, index), "b", "vector"),
            (lambda: gramian.grad_slice(phi, index), "p", "coordinate"),
        ):
            message = rf"{name} must name one of the 3 {what}s; got {name}={index}; try 0 to 2"
            with pytest.raises(ShapeError, match=message):
                ask()

    def test_index_into_an_empty_axis(self) -> None:
        with pytest.raises(ShapeError, match=r"one of the 0 groups; got a=0; an empty axis has none"):
            gramian.grad_group(torch.ones(3, 0, 2), 0)

    @pytest.mark.parametrize("index", [1.0, True, "0", None])
    def test_index_that_is_no_integer(self, index, unchecked) -> None:
        with pytest.raises(OptionError, match=r"a must be an integer, the index of a group; got a="):
            gramian.grad_group(torch.ones(3, 3, 3), index)

    def test_what_is_not_a_dense_real_tensor(self, unchecked) -> None:
        for phi in ([[1.0]], torch.eye(3, dtype=torch.int64), torch.eye(3).to_sparse(), torch.eye(3) * 1j):
            for ask in (
                gramian.loss,
                gramian.value_and_grad,
                gramian.residual,
                lambda phi: gramian.grad_group(phi, 0),
                lambda phi: gramian.grad_vector(phi, 0, 0),
                lambda phi: gramian.grad_slice(phi, 0),
            ):
                with pytest.raises(DtypeError, match=r"phi must be .*; got .*; try"):
                    ask(phi)
