"""vec and the commutation matrix, from their definitions and their identities with the Kronecker product."""

import pytest
import torch

from gramian.calculus import commutation_matrix, unvec, vec
from gramian.errors import ShapeError

over_sizes = pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (4, 1), (2, 3), (5, 2), (3, 3)])


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@over_sizes
def test_vec_stacks_columns_and_unvec_is_its_inverse(rows, columns) -> None:
    A = random(rows, columns)
    assert vec(A).tolist() == [A[i, j].item() for j in range(columns) for i in range(rows)]
    assert torch.equal(unvec(vec(A), rows), A)


@pytest.mark.parametrize("rows", [0, -1, 4])
def test_unvec_of_a_length_that_does_not_divide(rows) -> None:
    with pytest.raises(
        ShapeError,
        match=f"must be at least 1 and divide the number of entries; got {rows} rows for a vector of 6 entries",
    ):
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
    swapped = commutation_matrix(4, 2) @ torch.kron(A, B) @ commutation_matrix(3, 5)
    torch.testing.assert_close(swapped, torch.kron(B, A))


def test_vec_of_a_product_of_three() -> None:
    A, B, C = random(2, 3), random(3, 4), random(4, 5)
    torch.testing.assert_close(vec(A @ B @ C), torch.kron(C.mT.contiguous(), A) @ vec(B))
