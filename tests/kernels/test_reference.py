"""The reference kernel beside float64, at sizes for which products in torch have errors."""

import pytest
import torch
from torch import Tensor

from gramian.kernels import reference
from tests.cases import PENALTY_CASES, over_dtypes, over_penalties, over_shapes

LARGE = ((8, 1, 512), (512, 1, 512), (8, 1, 2048), (8, 4096, 2), (600, 2, 520))

over_large = pytest.mark.parametrize("shape", LARGE, ids=str)


def exact_residual(phi: Tensor) -> Tensor:
    P = phi.double().permute(1, 0, 2)
    return P.mT @ P - torch.eye(P.shape[2], dtype=torch.float64)


def relative(error: Tensor, exact: Tensor) -> float:
    return (error.double().abs().max() / exact.abs().max()).item()


TOLERANCE = 2e-6
"""Of the largest entry, for float32 products of up to 1024 terms; a product in place is off by more than 0.1."""


@over_large
def test_residual(shape) -> None:
    phi = torch.randn(shape)
    before = phi.clone()
    X, exact = reference.residual(phi), exact_residual(phi)
    assert X.shape == exact.shape
    assert relative(X - exact, exact) < TOLERANCE
    assert torch.equal(X, X.mT)
    assert torch.equal(phi, before)


@over_penalties
@over_large
def test_value_and_gradient(case, shape) -> None:
    if shape[2] == 2048 and not case.degree:
        shape = (8, 1, 1024)  # one sum that long is enough for each degree
    phi = torch.randn(shape)
    before = phi.clone()
    values, grad = reference.REFERENCE.value_and_grad(phi, case.penalty, 0.7)
    exact_values = 0.7 * case.penalty.value(exact_residual(phi))
    # Adding 2048² entries must not lose digits.
    torch.testing.assert_close(values.double(), exact_values, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        reference.REFERENCE.value(phi, case.penalty).double(), exact_values / 0.7, rtol=1e-6, atol=0
    )
    # The same residual for both: a sign of rounding noise is not the product's error.
    G = case.penalty.subgradient(reference.residual(phi)).double()
    exact = 1.4 * (phi.double().permute(1, 0, 2) @ G).permute(1, 0, 2)
    assert grad.shape == phi.shape
    assert relative(grad - exact, exact) < TOLERANCE
    assert torch.equal(phi, before)


@over_large
def test_product_with_a_matrix_of_each_group(shape) -> None:
    phi, M = torch.randn(shape), torch.randn(shape[1], shape[2], shape[2])
    before = phi.clone(), M.clone()
    product = reference.apply(phi, M)
    exact = (phi.double().permute(1, 0, 2) @ M.double()).permute(1, 0, 2)
    assert product.shape == phi.shape
    assert relative(product - exact, exact) < TOLERANCE
    assert torch.equal(phi, before[0])
    assert torch.equal(M, before[1])


@pytest.mark.parametrize(
    "in_place",
    [
        lambda P, M: P.baddbmm_(P, M, beta=0),
        lambda P, M: torch.bmm(P, M, out=P),
        lambda P, M: P[0].addmm_(P[0], M[0], beta=0)[None],
        lambda P, M: torch.mm(P[0], M[0], out=P[0])[None],
    ],
    ids=["baddbmm_", "bmm out=", "addmm_", "mm out="],
)
def test_a_product_in_place_would_be_seen(in_place) -> None:
    P, M = torch.randn(1, 512, 512), torch.randn(1, 512, 512)
    exact = P.double() @ M.double()
    error = relative(in_place(P.clone(), M) - exact, exact)
    if error < TOLERANCE:
        pytest.skip("this torch multiplies rightly in place")
    assert error > 1000 * TOLERANCE


@over_shapes
@over_dtypes
def test_compute_dtype_and_views(shape, dtype) -> None:
    phi = torch.randn(shape).to(dtype)
    P = reference.group_matrices(phi)
    assert P.dtype == reference.compute_dtype(dtype) == (dtype if dtype.itemsize > 2 else torch.float32)
    assert P.shape == (shape[1], shape[0], shape[2])
    assert torch.equal(P, phi.to(P.dtype).permute(1, 0, 2))
    assert (P.data_ptr() == phi.data_ptr()) == (dtype.itemsize > 2)
    assert reference.residual(phi).dtype == P.dtype
    values, grad = reference.REFERENCE.value_and_grad(phi, PENALTY_CASES["l1"].penalty, 1.0)
    assert values.dtype == P.dtype
    assert values.shape == shape[1:2]
    assert grad.dtype == dtype


@over_penalties
def test_the_subgradient_of_a_group_with_a_nonfinite_value_is_nan(case) -> None:
    X = torch.randn(3, 4, 4)
    X[1, 0, 2] = float("nan")
    X[2, 3, 3] = float("inf")
    G = reference.scaled_subgradient(X, case.penalty.value(X), case.penalty, 0.5)
    assert torch.equal(G[0], case.penalty.subgradient(X[0]))
    assert G[1:].isnan().all()


def test_full_precision_switches_autocast_off_within_its_block() -> None:
    tensor = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (tensor @ tensor).dtype == torch.bfloat16
        with reference.full_precision(tensor):
            assert (tensor @ tensor).dtype == torch.float32
        assert (tensor @ tensor).dtype == torch.bfloat16
