"""vec, Kronecker products and commutation matrices: from their definitions, and the operators against the matrices."""

import pytest
import torch

from gramian.calculus import (
    LinearOperator,
    commutation_matrix,
    commutation_operator,
    gram_jacobian,
    gram_jacobian_operator,
    kronecker,
    kronecker_operator,
    unvec,
    vec,
)
from gramian.errors import ShapeError

over_sizes = pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (4, 1), (2, 3), (5, 2), (3, 3)])


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@over_sizes
def test_vec_stacks_columns_and_unvec_cuts_them(rows, columns) -> None:
    A = random(rows, columns)
    assert vec(A).tolist() == [A[i, j].item() for j in range(columns) for i in range(rows)]
    assert torch.equal(unvec(vec(A), rows), A)


@pytest.mark.parametrize("rows", [0, -1, 4])
def test_unvec_says_what_cannot_be_cut(rows) -> None:
    with pytest.raises(ShapeError, match=f"a vector of 6 entries cannot be cut into columns of length {rows}"):
        unvec(random(6), rows)


@over_sizes
def test_the_commutation_matrix_by_its_definition(rows, columns) -> None:
    """K_mn = Σ_ij E_ij ⊗ E_ijᵀ."""
    expected = torch.zeros(rows * columns, rows * columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            unit = torch.zeros(rows, columns, dtype=torch.float64)
            unit[i, j] = 1
            expected += torch.kron(unit, unit.mT.contiguous())
    K = commutation_matrix(rows, columns)
    assert torch.equal(K, expected)
    assert torch.equal(K @ K.mT, torch.eye(rows * columns, dtype=torch.float64))
    assert torch.equal(K.mT, commutation_matrix(columns, rows))
    assert commutation_matrix(rows, columns, dtype=torch.float32).dtype == torch.float32


def test_the_commutation_matrix_swaps_the_factors_of_a_kronecker_product() -> None:
    A, B = random(2, 3), random(4, 5)
    swapped = commutation_matrix(4, 2) @ kronecker(A, B) @ commutation_matrix(3, 5)
    torch.testing.assert_close(swapped, kronecker(B, A))


def test_the_three_products_by_vec() -> None:
    A, B, C = random(2, 3), random(3, 4), random(4, 5)
    torch.testing.assert_close(vec(A @ B @ C), kronecker(C.mT, A) @ vec(B))


def operators() -> dict[str, tuple[LinearOperator, torch.Tensor]]:
    A, B, P = random(2, 3), random(4, 5), random(6, 3)
    return {
        "commutation": (commutation_operator(3, 4), commutation_matrix(3, 4)),
        "kronecker": (kronecker_operator(A, B), kronecker(A, B)),
        "jacobian": (gram_jacobian_operator(P), gram_jacobian(P)),
        "jacobian, n > l": (gram_jacobian_operator(P.mT), gram_jacobian(P.mT)),
    }


@pytest.mark.parametrize("name", operators())
def test_an_operator_is_its_matrix(name) -> None:
    operator, matrix = operators()[name]
    assert operator.shape == tuple(matrix.shape)
    v, u = random(operator.shape[1]), random(operator.shape[0])
    torch.testing.assert_close(operator.dense(), matrix)
    torch.testing.assert_close(operator.matvec(v), matrix @ v)
    torch.testing.assert_close(operator.rmatvec(u), matrix.mT @ u)
    torch.testing.assert_close(operator.matvec(v) @ u, operator.rmatvec(u) @ v)


def test_an_operator_holds_no_matrix() -> None:
    # As a matrix it would have 4e12 entries.
    operator = gram_jacobian_operator(random(2000, 1000))
    v = random(2_000_000)
    u = random(1_000_000)
    torch.testing.assert_close(operator.matvec(v) @ u, operator.rmatvec(u) @ v, rtol=1e-8, atol=1e-5)
