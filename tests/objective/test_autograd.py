"""The loss under autograd and torch.func, to second order; torch.compile is in `bare/`."""

import weakref
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, func
from torch.autograd.graph import saved_tensors_hooks

import gramian
from gramian.penalties import L1, Penalty
from tests.cases import over_draws, over_dtypes, over_penalties, overcomplete_is_meant, plain_loss

# torch's own forward mode still goes through a deprecated compiler.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

BETA = 0.7


def ours(case):
    return lambda phi: gramian.loss(phi, beta=BETA, penalty=case.penalty)


def plain(case):
    return lambda phi: plain_loss(phi, case, BETA)


@over_draws
def test_double_backward_of_l1_is_the_direction_times_g(draw) -> None:
    phi = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    V = torch.randn(5, 2, 3, dtype=torch.float64)
    (grad,) = torch.autograd.grad(gramian.loss(phi, beta=BETA), phi, create_graph=True)
    (product,) = torch.autograd.grad(grad, phi, V)
    G = gramian.residual(phi.detach()).sign()
    expected = 2 * BETA * torch.einsum("lmj,mjk->lmk", V, G)
    torch.testing.assert_close(product, expected)
    # The factor 2 is not 1, and the diagonal counts.
    assert (product - expected / 2).abs().max() > 0.1
    diagonal = torch.diag_embed(G.diagonal(dim1=1, dim2=2))
    assert torch.einsum("lmj,mjk->lmk", V, diagonal).abs().max() > 0.1


@over_penalties
def test_third_order(case) -> None:
    phi = torch.randn(3, 1, 2, dtype=torch.float64)
    third = func.jacrev(func.jacrev(func.jacrev(ours(case))))(phi)
    torch.testing.assert_close(third, func.jacrev(func.jacrev(func.jacrev(plain(case))))(phi))


@over_penalties
class TestTransforms:
    def test_vmap(self, case) -> None:
        batch = torch.randn(4, 5, 2, 3, dtype=torch.float64)
        expected = [gramian.value_and_grad(phi, beta=BETA, penalty=case.penalty) for phi in batch]
        values, grads = (torch.stack(parts) for parts in zip(*expected, strict=True))
        torch.testing.assert_close(func.vmap(ours(case))(batch), values)
        torch.testing.assert_close(func.vmap(func.grad(ours(case)))(batch), grads)
        both = func.vmap(lambda phi: gramian.value_and_grad(phi, beta=BETA, penalty=case.penalty))(batch)
        torch.testing.assert_close(both, (values, grads))
        moved = func.vmap(ours(case), in_dims=2)(batch.movedim(0, 2))
        torch.testing.assert_close(moved, values)
        leaf = batch.clone().requires_grad_()
        func.vmap(ours(case))(leaf).sum().backward()
        torch.testing.assert_close(leaf.grad, grads)

    @forward_mode
    @over_dtypes
    def test_jvp(self, case, dtype) -> None:
        phi, direction = torch.randn(5, 2, 3).to(dtype), torch.randn(5, 2, 3).to(dtype)
        value, slope = func.jvp(ours(case), (phi,), (direction,))
        exact, exact_slope = func.jvp(plain(case), (phi.double(),), (direction.double(),))
        assert slope.dtype == value.dtype == (dtype if dtype.itemsize > 2 else torch.float32)
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(slope.double(), exact_slope, rtol=1e-5, atol=1e-4)

    @forward_mode
    @over_dtypes
    def test_forward_over_reverse(self, case, dtype) -> None:
        phi, direction = torch.randn(5, 2, 3).to(dtype), torch.randn(5, 2, 3).to(dtype)
        grad, product = func.jvp(func.grad(ours(case)), (phi,), (direction,))
        expected = func.jvp(func.grad(plain(case)), (phi.double(),), (direction.double(),))
        rough = {"rtol": 3 * torch.finfo(dtype).eps, "atol": 1e-3 if dtype.itemsize == 2 else 1e-4}
        torch.testing.assert_close(grad.double(), expected[0], **rough)
        torch.testing.assert_close(product.double(), expected[1], **rough)

    @over_dtypes
    def test_reverse_over_reverse(self, case, dtype) -> None:
        phi = torch.randn(5, 2, 3).to(dtype).requires_grad_()
        (grad,) = torch.autograd.grad(ours(case)(phi), phi, create_graph=True)
        wide = grad if dtype.itemsize > 2 else grad.float()
        (product,) = torch.autograd.grad(wide.square().sum(), phi)
        exact = phi.detach().double().requires_grad_()
        (exact_grad,) = torch.autograd.grad(plain(case)(exact), exact, create_graph=True)
        (expected,) = torch.autograd.grad(exact_grad, exact, 2 * grad.detach().double())
        assert product.dtype == dtype
        rough = 5 * torch.finfo(dtype).eps
        torch.testing.assert_close(product.double(), expected, rtol=rough, atol=max(1e-4, rough * expected.abs().max()))


def test_through_a_layout_and_an_operation_before_it() -> None:
    weight = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    layout = gramian.Layout("(m n) i -> i m n", n=4)
    (grad,) = torch.autograd.grad(gramian.loss(weight.tanh(), layout=layout), weight)
    inner = gramian.value_and_grad(weight.tanh(), layout=layout)[1]
    torch.testing.assert_close(grad, inner * (1 - weight.tanh().square()))


def test_a_parameter_of_a_module() -> None:
    linear = torch.nn.Linear(6, 4)
    gramian.loss(linear.weight, layout="o i -> i () o").backward()
    assert linear.weight.grad.any()
    assert linear.bias.grad is None


def test_the_cotangent_scales_and_a_used_graph_is_used_once() -> None:
    phi = torch.randn(5, 2, 3, requires_grad=True)
    value = gramian.loss(phi)
    (twice,) = torch.autograd.grad(value, phi, torch.tensor(2.0), retain_graph=True)
    (once,) = torch.autograd.grad(value, phi)
    torch.testing.assert_close(twice, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, phi)


def test_a_write_between_forward_and_backward_is_an_error() -> None:
    phi = torch.randn(5, 2, 3, requires_grad=True)
    value = gramian.loss(phi)
    with torch.no_grad():
        phi.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@dataclass(frozen=True)
class StreamingNorm(Penalty):
    """L1, remembering weakly which residuals it has seen."""

    seen: list[weakref.ref] = field(default_factory=list)

    def value(self, X: Tensor) -> Tensor:
        self.seen.append(weakref.ref(X))
        return L1().value(X)

    def subgradient(self, X: Tensor) -> Tensor:
        G = L1().subgradient(X)
        self.seen.extend([weakref.ref(X), weakref.ref(G)])
        return G

    def prox_residual(self, X: Tensor, tau: Tensor) -> Tensor:
        return L1().prox_residual(X, tau)


@overcomplete_is_meant
class TestMemory:
    def test_nothing_of_the_size_of_the_residual_is_saved(self) -> None:
        phi = torch.randn(4, 2, 100, requires_grad=True)
        sizes: list[int] = []
        with saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor):
            value = gramian.loss(phi)
        assert sizes
        assert max(sizes) <= phi.numel()
        assert sum(sizes) <= 2 * phi.numel()
        value.backward()

        plain_sizes: list[int] = []
        with saved_tensors_hooks(lambda tensor: plain_sizes.append(tensor.numel()) or tensor, lambda tensor: tensor):
            L1().value(gramian.residual(phi)).sum()
        assert max(plain_sizes) >= 2 * 100 * 100

    def test_no_residual_outlives_the_forward_pass(self) -> None:
        penalty = StreamingNorm()
        phi = torch.randn(4, 2, 100, requires_grad=True)
        value = gramian.loss(phi, penalty=penalty)
        assert len(penalty.seen) >= 3
        assert all(reference() is None for reference in penalty.seen)
        value.backward()
        assert phi.grad.any()

    def test_without_grad_nothing_is_saved(self) -> None:
        def refuse(tensor: Tensor) -> Tensor:
            raise AssertionError

        phi = torch.randn(4, 2, 3, requires_grad=True)
        with torch.no_grad(), saved_tensors_hooks(refuse, refuse):
            assert not gramian.loss(phi).requires_grad
        with saved_tensors_hooks(refuse, refuse):
            assert not gramian.loss(phi.detach()).requires_grad
            gramian.value_and_grad(phi)
