"""The polar factor and its derivative, against singular values."""

import pytest
import torch
from torch import Tensor

from gramian import residual
from gramian.errors import DataError, ShapeError
from gramian.rules.restore import rounding_level
from gramian.training.parametrisation.polar import nearest_orthonormal, polar_factor

SHAPES = [(6, 1, 4), (5, 3, 5), (7, 4, 1), (9, 2, 3)]


def by_singular_values(phi: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(phi.permute(1, 0, 2), full_matrices=False)
    return (U @ Vh).permute(1, 0, 2)


def near(shape: tuple[int, int, int], distance: float, dtype: torch.dtype = torch.float64) -> Tensor:
    Q = by_singular_values(torch.randn(shape, dtype=torch.float64))
    return (Q + distance * torch.randn(shape, dtype=torch.float64) / shape[0] ** 0.5).to(dtype)


@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e-3, 0.03, 0.2, 3.0])
@pytest.mark.parametrize("shape", [*SHAPES, (40, 2, 30)])
def test_the_value(shape, distance) -> None:
    phi = near(shape, distance)
    Q = polar_factor(phi)
    torch.testing.assert_close(Q, by_singular_values(phi), rtol=0, atol=1e-13)
    assert Q.data_ptr() != phi.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("distance", [1e-3, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(64, 3, 32), (300, 1, 17), (16, 70, 4)])
def test_it_is_orthonormal_to_rounding_at_once(shape, distance, dtype) -> None:
    Q, _ = nearest_orthonormal(near(shape, distance, dtype))
    assert Q.dtype == dtype
    level = rounding_level(dtype, shape[0], products=torch.float32)
    assert residual(Q.double()).abs().max() <= 1.5 * level
    again, orthonormal = nearest_orthonormal(Q)
    assert orthonormal
    assert again is Q


@pytest.mark.parametrize("distance", [0.0, 0.05, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_derivative(shape, distance) -> None:
    phi = near(shape, distance).requires_grad_()
    assert torch.autograd.gradcheck(polar_factor, phi)


@pytest.mark.parametrize("shape", [(6, 1, 4), (9, 2, 3), (5, 2, 5)])
def test_the_derivative_through_singular_vectors(shape) -> None:
    phi = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    G = torch.randn_like(phi)
    (grad,) = torch.autograd.grad(polar_factor(phi), phi, G)
    (expected,) = torch.autograd.grad(by_singular_values(phi), phi, G)
    torch.testing.assert_close(grad, expected, rtol=1e-8, atol=1e-8)


def test_the_derivative_is_tangent_at_orthonormal_groups() -> None:
    phi = near((9, 2, 3), 0.0).requires_grad_()
    (grad,) = torch.autograd.grad(polar_factor(phi), phi, torch.randn_like(phi))
    assert grad.abs().max() > 0.1
    M = phi.detach().permute(1, 2, 0) @ grad.permute(1, 0, 2)
    torch.testing.assert_close(M, -M.mT, rtol=0, atol=1e-14)


def test_a_second_derivative_is_refused() -> None:
    phi = near((6, 1, 2), 0.0).requires_grad_()
    (grad,) = torch.autograd.grad(polar_factor(phi).pow(3).sum(), phi, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_under_transforms() -> None:
    phi, G = near((6, 2, 3), 0.1), torch.randn(6, 2, 3, dtype=torch.float64)
    grad = torch.func.grad(lambda phi: (polar_factor(phi) * G).sum())(phi)
    leaf = phi.clone().requires_grad_()
    torch.testing.assert_close(grad, torch.autograd.grad((polar_factor(leaf) * G).sum(), leaf)[0])


def test_autocast_does_not_change_it() -> None:
    phi = near((32, 1, 16), 0.05, torch.float32).requires_grad_()
    G = torch.randn_like(phi)
    plain = polar_factor(phi)
    (expected,) = torch.autograd.grad(plain, phi, G)
    with torch.autocast("cpu", torch.bfloat16):
        Q = polar_factor(phi)
        (grad,) = torch.autograd.grad(Q, phi, G)
    assert torch.equal(Q, plain)
    assert torch.equal(grad, expected)


def test_errors() -> None:
    with pytest.raises(ShapeError, match="n <= l"):
        polar_factor(torch.randn(2, 1, 3))
    with pytest.raises(DataError, match="linearly independent and finite"):
        polar_factor(torch.zeros(4, 1, 2))
    with pytest.raises(DataError, match="linearly independent and finite"):
        polar_factor(torch.full((4, 1, 2), torch.nan))


def test_without_groups() -> None:
    assert polar_factor(torch.empty(4, 0, 2)).shape == (4, 0, 2)
