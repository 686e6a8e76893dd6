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
    over_penalties,
    overcomplete_is_meant,
    plain_loss,
)

BETA = 0.7


@overcomplete_is_meant
@over_all_shapes
def test_residual(shape) -> None:
    phi = torch.randn(shape, dtype=torch.float64)
    expected = [oracle.residual(oracle.group(phi.tolist(), i)) for i in range(shape[1])]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(gramian.residual(phi), expected, rtol=1e-12, atol=1e-12)


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

    @pytest.mark.usefixtures("reference_kernel")
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


@over_penalties
class TestPrecision:
    """The twice-the-error rule: at most twice what plain torch errs that computes in float32 and rounds once."""

    def test_float64_against_long_double(self, case) -> None:
        phi = torch.randn(64, 3, 8, dtype=torch.float64)
        wide = phi.numpy().astype(np.longdouble)
        (mu,) = case.mu(1, 8)
        exact = np.stack([self.long_double_gradient(wide[:, i, :], mu) for i in range(3)], axis=1)
        leaf = phi.clone().requires_grad_()
        (plain,) = torch.autograd.grad(plain_loss(leaf, case), leaf)
        grad = gramian.value_and_grad(phi, penalty=case.penalty)[1]
        error = np.sqrt(np.mean((grad.numpy() - exact) ** 2))
        assert error <= 2 * np.sqrt(np.mean((plain.numpy() - exact) ** 2))

    @staticmethod
    def long_double_gradient(P: np.ndarray, mu: oracle.Mu) -> np.ndarray:
        X = P.T @ P - np.eye(P.shape[1], dtype=np.longdouble)
        return 2 * P @ np.array(mu.subgradient([list(row) for row in X]), dtype=np.longdouble)

    def test_float16_accumulates_in_float32(self, case) -> None:
        phi = torch.full((64, 1, 2), 100.0, dtype=torch.float16)  # inner products of 640000; float16 ends at 65504
        value = gramian.loss(phi, beta=1e-6, penalty=case.penalty)
        exact = plain_loss(phi.double(), case, 1e-6)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
        assert gramian.residual(phi).min() > 6e5
        assert gramian.grad_vector(phi, 0, 1, beta=1e-6, penalty=case.penalty).isfinite().all()
        assert gramian.value_and_grad(phi, beta=1e-6, penalty=case.penalty)[1].isfinite().all()


def test_an_expanded_group_counts_as_often_as_it_is_there() -> None:
    phi = torch.randn(6, 1, 4, dtype=torch.float64)
    torch.testing.assert_close(gramian.loss(phi.expand(6, 3, 4)), 3 * gramian.loss(phi))


def test_the_input_is_not_written_to_and_the_gradient_shares_no_memory() -> None:
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
            with pytest.raises(OptionError, match=r"beta must be (0 or positive|finite); got .*; try beta=1\.0"):
                ask()

    @pytest.mark.parametrize("beta", ["strong", None, [1.0], torch.ones(3)], ids=["str", "None", "list", "tensor"])
    def test_beta_that_is_no_number(self, beta, unchecked) -> None:
        with pytest.raises(OptionError, match=r"beta must be a number; got .*; try"):
            gramian.loss(torch.eye(3), beta=beta)

    def test_penalty(self, unchecked) -> None:
        for penalty in ("l2", 3):  # pyright: ignore
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
        with pytest.raises(ShapeError, match=r"one of the 0 groups; got a=0; the axis is empty"):
            gramian.grad_group(torch.ones(3, 0, 2), 0)

    @pytest.mark.parametrize("index", [1.0, True, "0", None])
    def test_index_that_is_no_integer(self, index, unchecked) -> None:
        with pytest.raises(OptionError, match=r"a must be a whole number; got"):
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
