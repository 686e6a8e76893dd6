"""The loss and its derivatives, of every penalty of the table: by loops, by differences, by autograd, at kinks."""

import itertools

import pytest
import torch
from torch import Tensor, func

import gramian
from tests import oracle
from tests.cases import (
    ALL_CASES,
    OVERCOMPLETE,
    SHAPES,
    PenaltyCase,
    over,
    over_all_penalties,
    over_convex,
    over_dtypes,
    overcomplete_is_meant,
    plain_loss,
    stiefel,
)

# torch's own forward mode still goes through a deprecated compiler.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

BETA = 0.7
SHAPE = (6, 2, 3)


def ours(case: PenaltyCase, m: int = SHAPE[1], n: int = SHAPE[2]):
    penalty = case.at(m, n)
    return lambda phi: gramian.loss(phi, beta=BETA, penalty=penalty)


def plain(case: PenaltyCase):
    return lambda phi: plain_loss(phi, case, BETA)


def as_tensor(nested) -> Tensor:
    return torch.tensor(nested, dtype=torch.float64)


def shapes(case: PenaltyCase) -> tuple[tuple[int, int, int], ...]:
    return SHAPES if case.tall else SHAPES + OVERCOMPLETE


def starts(case: PenaltyCase, shape: tuple[int, int, int]) -> list[Tensor]:
    """Random groups; integers, of which many inner products are exactly 0 and many norms exactly 1; and zeros."""
    at_kinks = [torch.randint(-1, 2, shape).double(), torch.zeros(shape, dtype=torch.float64)]
    return [case.draw(shape), *(at_kinks if case.ties and not case.tall else [])]


@overcomplete_is_meant
@over_all_penalties
class TestAgainstTheOracle:
    def test_value_and_gradient(self, case) -> None:
        for shape in shapes(case):
            penalty, mu = case.at(*shape[1:]), case.mu(*shape[1:])
            for phi in starts(case, shape):
                value, grad = gramian.value_and_grad(phi, beta=BETA, penalty=penalty)
                close = {"rtol": case.tolerance, "atol": case.tolerance * (1 + phi.abs().max().item())}
                torch.testing.assert_close(grad, as_tensor(oracle.gradient(phi.tolist(), BETA, mu)), **close)
                torch.testing.assert_close(value, as_tensor(oracle.loss(phi.tolist(), BETA, mu)), **close)
                torch.testing.assert_close(gramian.loss(phi, beta=BETA, penalty=penalty), value, **close)

    def test_parts_of_the_gradient(self, case) -> None:
        for shape in shapes(case)[2:]:
            length, m, n = shape
            phi, options = case.draw(shape), {"beta": BETA, "penalty": case.at(m, n)}
            grad = gramian.value_and_grad(phi, **options)[1]
            for a, b, p in zip(range(-m, m), itertools.cycle(range(-n, n)), itertools.cycle(range(-length, length))):
                torch.testing.assert_close(gramian.grad_group(phi, a, **options), grad[:, a, :])
                torch.testing.assert_close(gramian.grad_vector(phi, a, b, **options), grad[:, a, b])
                torch.testing.assert_close(gramian.grad_slice(phi, p, **options), grad[p])


@over_all_penalties
class TestByDifferences:
    def test_away_from_kinks(self, case) -> None:
        for seed in range(3):
            phi = case.draw(SHAPE, seed)
            grad = gramian.value_and_grad(phi, beta=BETA, penalty=case.at(*SHAPE[1:]))[1]
            mu = case.mu(*SHAPE[1:])
            slope = oracle.central_difference(lambda moved, mu=mu: oracle.loss(moved, BETA, mu), phi.tolist())
            torch.testing.assert_close(grad, as_tensor(slope), rtol=1e-5, atol=1e-6)

    def test_a_gradient_that_is_wrong_would_be_seen(self, case) -> None:
        if case is ALL_CASES["0 l1"]:
            return
        phi = case.draw(SHAPE, 0)
        slope = gramian.value_and_grad(phi, penalty=case.at(*SHAPE[1:]))[1]
        P, G = phi.permute(1, 0, 2), case.at(*SHAPE[1:]).subgradient(gramian.residual(phi))
        assert slope.abs().max() > 1e-2
        for wrong in (G, 2 * G.triu(), -2 * G, 0 * G):
            assert ((P @ wrong).permute(1, 0, 2) - slope).abs().max() > 1e-3


@overcomplete_is_meant
@over_convex
def test_inequality_at_kinks_and_elsewhere(case) -> None:
    # μ is convex and X(P + D) = X + PᵀD + DᵀP + DᵀD, so L(P + D) ≥ L(P) + ⟨∂L, D⟩ + β⟨G, DᵀD⟩ for any G ∈ ∂μ(X):
    # the subgradient inequality of a weakly convex function. For l1 and large D it is all that holds at a kink.
    for shape in shapes(case):
        penalty = case.at(*shape[1:])
        for phi in starts(case, shape):
            value, grad = gramian.value_and_grad(phi, beta=BETA, penalty=penalty)
            G = penalty.subgradient(gramian.residual(phi))
            for scale in (1e-4, 1e-2, 1.0, 10.0):
                D = scale * torch.randn(shape, dtype=torch.float64)
                bend = BETA * (G * gramian.residual(D).add(torch.eye(shape[2], dtype=torch.float64))).sum()
                below = value + (grad * D).sum() + bend
                there = gramian.loss(phi + D, beta=BETA, penalty=penalty)
                assert there >= below - 1e-9 * (1 + below.abs() + (grad * D).abs().sum())


@over_all_penalties
def test_orthonormal_groups(case) -> None:
    for shape in SHAPES:
        penalty, phi = case.at(*shape[1:]), stiefel(*shape)
        exact = torch.eye(shape[0], dtype=torch.float64)[:, None, : shape[2]].expand(shape).contiguous()
        value, grad = gramian.value_and_grad(exact, penalty=penalty)
        if case.zero:
            assert gramian.loss(phi, penalty=penalty) < 1e-12
            assert value == 0
            assert not grad.any()
        else:
            assert value > 0.1
            assert grad.any()


@over_all_penalties
class TestUnderAutograd:
    def test_backward(self, case) -> None:
        phi = case.draw(SHAPE).requires_grad_()
        (grad,) = torch.autograd.grad(ours(case)(phi), phi)
        (expected,) = torch.autograd.grad(plain(case)(phi), phi)
        torch.testing.assert_close(grad, expected)
        assert torch.equal(grad.any(), gramian.value_and_grad(phi, beta=BETA, penalty=case.at(*SHAPE[1:]))[1].any())

    def test_to_second_order(self, case) -> None:
        phi = case.draw((4, 2, 2)).requires_grad_()
        function = ours(case, 2, 2)
        assert torch.autograd.gradcheck(function, phi)
        assert torch.autograd.gradgradcheck(function, phi)

    @forward_mode
    def test_the_hessian_each_way(self, case) -> None:
        phi = case.draw((4, 2, 2))
        function = ours(case, 2, 2)
        # Twice backward through the plain expression.
        expected = torch.autograd.functional.hessian(plain(case), phi)
        for hessian in (torch.autograd.functional.hessian(function, phi), func.hessian(function)(phi)):
            torch.testing.assert_close(hessian, expected)
        torch.testing.assert_close(func.jacrev(func.jacrev(function))(phi), expected)

    @forward_mode
    def test_transforms(self, case) -> None:
        penalty, batch = case.at(*SHAPE[1:]), torch.stack([case.draw(SHAPE) for _ in range(3)])
        direction = torch.randn(SHAPE, dtype=torch.float64)
        made = [gramian.value_and_grad(phi, beta=BETA, penalty=penalty) for phi in batch]
        values, grads = (torch.stack(parts) for parts in zip(*made, strict=True))
        torch.testing.assert_close(func.vmap(ours(case))(batch), values)
        torch.testing.assert_close(func.vmap(func.grad(ours(case)))(batch), grads)
        value, slope = func.jvp(ours(case), (batch[0],), (direction,))
        torch.testing.assert_close(value, values[0])
        torch.testing.assert_close(slope, (grads[0] * direction).sum())
        grad, product = func.jvp(func.grad(ours(case)), (batch[0],), (direction,))
        leaf = batch[0].clone().requires_grad_()
        (twin,) = torch.autograd.grad(plain(case)(leaf), leaf, create_graph=True)
        torch.testing.assert_close(grad, twin.detach())
        if twin.requires_grad:
            torch.testing.assert_close(product, torch.autograd.grad(twin, leaf, direction)[0])


def root_mean_square(error: Tensor) -> float:
    return error.double().square().mean().sqrt().item()


@over(ALL_CASES, lambda case: case.at(2, 2).elementwise)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_twice_the_error_of_plain_torch(case, dtype) -> None:
    # At most twice what plain torch errs that computes in float32 and rounds once.
    for shape in ((64, 5, 8), (33, 2, 17), (300, 1, 100)):
        penalty, phi = case.at(*shape[1:]), torch.randn(shape).to(dtype)
        exact, single = phi.double().requires_grad_(), phi.float().clone().requires_grad_()
        reference, rough = plain_loss(exact, case, BETA), plain_loss(single, case, BETA)
        (reference_grad,), (rough_grad,) = torch.autograd.grad(reference, exact), torch.autograd.grad(rough, single)
        value, grad = gramian.value_and_grad(phi, beta=BETA, penalty=penalty)
        leaf = phi.clone().requires_grad_()
        gramian.loss(leaf, beta=BETA, penalty=penalty).backward()
        assert value.dtype == torch.float32
        assert grad.dtype == leaf.grad.dtype == dtype
        error = rough_grad.to(dtype).double() - reference_grad
        for each in (grad, leaf.grad):
            assert root_mean_square(each.double() - reference_grad) <= 2 * root_mean_square(error)
        # One number can be right by luck: allow the rounding of a sum of float32 besides.
        floor = 4 * torch.finfo(torch.float32).eps * reference.item()
        assert abs(value.item() - reference.item()) <= 2 * abs(rough.item() - reference.item()) + floor
        # A part of the gradient may fall on the part where the plain one errs most.
        options = {"beta": BETA, "penalty": penalty}
        for part, whole, axis in (
            (gramian.grad_group(phi, 0, **options), reference_grad[:, 0], error.unbind(1)),
            (gramian.grad_vector(phi, 0, 1, **options), reference_grad[:, 0, 1], error.flatten(1).unbind(1)),
            (gramian.grad_slice(phi, 3, **options), reference_grad[3], error.unbind(0)),
        ):
            assert part.dtype == dtype
            assert root_mean_square(part.double() - whole) <= 2 * max(map(root_mean_square, axis))


@over_all_penalties
@over_dtypes
def test_each_format(case, dtype) -> None:
    phi = case.draw((16, 2, 4)).to(dtype)
    penalty = case.at(2, 4)
    value, grad = gramian.value_and_grad(phi, penalty=penalty)
    exact, slope = gramian.value_and_grad(phi.double(), penalty=penalty)
    assert value.dtype == (dtype if dtype.itemsize > 2 else torch.float32)
    assert grad.dtype == dtype
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-4)
    if case.smooth:  # elsewhere two right answers may differ
        close = max(1e-3, 4 * torch.finfo(dtype).eps)
        torch.testing.assert_close(grad.double(), slope, rtol=close, atol=close * (1 + slope.abs().max().item()))
    # A loss scale acts before the rounding: β alone would be below float16's smallest number.
    leaf, scale = phi.clone().requires_grad_(), 2.0**20
    (gramian.loss(leaf, beta=2.0**-28, penalty=penalty) * scale).backward()
    torch.testing.assert_close(leaf.grad, (2.0**-8 * grad.double()).to(dtype), rtol=2e-2, atol=1e-4)
    assert case is ALL_CASES["0 l1"] or leaf.grad.any()


@over_all_penalties
def test_autocast_changes_nothing(case) -> None:
    phi, penalty = case.draw((32, 2, 20)).float(), case.at(2, 20)

    def everything() -> list[Tensor]:
        leaf = phi.clone().requires_grad_()
        value = gramian.loss(leaf, penalty=penalty)
        (grad,) = torch.autograd.grad(value, leaf)
        parts = [gramian.grad_vector(phi, 0, 0, penalty=penalty), gramian.grad_slice(phi, 0, penalty=penalty)]
        return [value.detach(), grad, *gramian.value_and_grad(phi, penalty=penalty), *parts, gramian.residual(phi)]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = everything()
    for got, expected in zip(inside, everything(), strict=True):
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)
