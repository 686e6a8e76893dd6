"""vec, its inverse, and the commutation matrix. The Kronecker product A ⊗ B is `torch.kron`."""

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import ShapeError

__all__ = ["commutation_matrix", "unvec", "vec"]

Vector = Float[Tensor, " k"]


def vec(A: Float[Tensor, "rows columns"]) -> Vector:
    """Stack the columns of a matrix.

    Args:
        A: A matrix.

    Returns:
        A vector with the same entries, the first column first.

    Examples:
        >>> import torch
        >>> vec(torch.tensor([[1, 3], [2, 4]]).float()).tolist()
        [1.0, 2.0, 3.0, 4.0]

    References:
        Magnus and Neudecker, "Matrix Differential Calculus", chapter 2.
    """
    return A.mT.reshape(-1)


def unvec(v: Vector, rows: int) -> Float[Tensor, "rows columns"]:
    """Split a vector into the columns of a matrix: the inverse of `vec`.

    Args:
        v: A vector.
        rows: Length of a column.

    Returns:
        The matrix.

    Raises:
        ShapeError: If the length of the vector is not a multiple of that of a column.

    Examples:
        >>> import torch
        >>> unvec(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2).tolist()
        [[1.0, 3.0], [2.0, 4.0]]
    """
    if rows < 1 or v.numel() % rows:
        raise ShapeError(
            f"rows must be at least 1 and divide the number of entries; got {rows} rows for a vector of {v.numel()} "
            "entries"
        )
    return v.reshape(-1, rows).mT


def commutation_matrix(rows: int, columns: int, *, dtype: torch.dtype = torch.float64) -> Float[Tensor, "k k"]:
    """Form K_mn, the permutation with K_mn vec A = vec Aᵀ for every m × n matrix A.

    Args:
        rows: m.
        columns: n.
        dtype: Dtype of the matrix.

    Returns:
        A matrix of shape [mn, mn].

    Cost:
        (mn)² numbers.

    Examples:
        >>> import torch
        >>> A = torch.randn(2, 3, dtype=torch.float64)
        >>> torch.equal(commutation_matrix(2, 3) @ vec(A), vec(A.mT))
        True

    References:
        Magnus and Neudecker, "The commutation matrix: some properties and applications", 1979.
    """
    # Row i of K selects the place in vec A of entry i of vec Aᵀ.
    places = vec(vec(torch.arange(rows * columns, dtype=dtype)[None]).reshape(columns, rows))
    return torch.eye(rows * columns, dtype=dtype)[places.long()]
