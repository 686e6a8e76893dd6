"""vec, Kronecker products and commutation matrices: dense for small sizes, as linear operators for all."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import ShapeError

__all__ = [
    "LinearOperator",
    "commutation_matrix",
    "commutation_operator",
    "kronecker",
    "kronecker_operator",
    "unvec",
    "vec",
]

Vector = Float[Tensor, " k"]


@dataclass(frozen=True)
class LinearOperator:
    """A matrix that is known by its products alone.

    Args:
        shape: (rows, columns).
        matvec: v ↦ Av.
        rmatvec: u ↦ Aᵀu.

    Examples:
        >>> import torch
        >>> swap = commutation_operator(2, 3)
        >>> swap.matvec(torch.arange(6.0)).tolist()
        [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]
    """

    shape: tuple[int, int]
    matvec: Callable[[Vector], Vector]
    rmatvec: Callable[[Vector], Vector]

    def dense(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "rows columns"]:
        """Form the matrix, a column at a time."""
        columns = [self.matvec(column) for column in torch.eye(self.shape[1], dtype=dtype)]
        return torch.stack(columns, dim=1) if columns else torch.zeros(self.shape, dtype=dtype)


def vec(A: Float[Tensor, "rows columns"]) -> Vector:
    """Stack the columns of a matrix.

    Args:
        A: A matrix.

    Returns:
        A vector of as many entries, the first column first.

    Examples:
        >>> import torch
        >>> vec(torch.tensor([[1, 3], [2, 4]]).float()).tolist()
        [1.0, 2.0, 3.0, 4.0]

    References:
        Magnus and Neudecker, "Matrix Differential Calculus", chapter 2.
    """
    return A.mT.reshape(-1)


def unvec(v: Vector, rows: int) -> Float[Tensor, "rows columns"]:
    """Cut a vector into columns: the inverse of `vec`.

    Args:
        v: A vector.
        rows: Length of a column.

    Returns:
        The matrix.

    Raises:
        ShapeError: If the vector cannot be cut so.

    Examples:
        >>> import torch
        >>> unvec(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2).tolist()
        [[1.0, 3.0], [2.0, 4.0]]
    """
    if rows < 1 or v.numel() % rows:
        raise ShapeError(f"a vector of {v.numel()} entries cannot be cut into columns of length {rows}")
    return v.reshape(-1, rows).mT


def commutation_matrix(rows: int, columns: int, *, dtype: torch.dtype = torch.float64) -> Float[Tensor, "k k"]:
    """Give K_mn, the permutation with K_mn vec A = vec Aᵀ for every m × n matrix A.

    Args:
        rows: m.
        columns: n.
        dtype: Of the matrix.

    Returns:
        A matrix of shape [mn, mn].

    Cost:
        (mn)² numbers; `commutation_operator` holds none.

    Examples:
        >>> import torch
        >>> A = torch.randn(2, 3, dtype=torch.float64)
        >>> torch.equal(commutation_matrix(2, 3) @ vec(A), vec(A.mT))
        True

    References:
        Magnus and Neudecker, "The commutation matrix: some properties and applications", 1979.
    """
    places = vec(torch.arange(rows * columns, dtype=torch.float64).reshape(columns, rows).mT.mT)
    return torch.eye(rows * columns, dtype=dtype)[places.long()]


def commutation_operator(rows: int, columns: int) -> LinearOperator:
    """Give K_mn as an operator, which copies and holds nothing.

    Args:
        rows: m.
        columns: n.

    Returns:
        The operator.

    Examples:
        >>> import torch
        >>> torch.equal(commutation_operator(4, 3).dense(), commutation_matrix(4, 3))
        True
    """
    size = rows * columns
    return LinearOperator((size, size), lambda v: vec(unvec(v, rows).mT), lambda u: vec(unvec(u, columns).mT))


def kronecker(A: Float[Tensor, "a b"], B: Float[Tensor, "c d"]) -> Float[Tensor, "ac bd"]:
    """Form A ⊗ B, for which (A ⊗ B) vec X = vec(B X Aᵀ).

    Args:
        A: A matrix.
        B: A matrix.

    Returns:
        A matrix of shape [ac, bd].

    Examples:
        >>> import torch
        >>> A, B, X = torch.randn(2, 3), torch.randn(4, 5), torch.randn(5, 3)
        >>> torch.allclose(kronecker(A, B) @ vec(X), vec(B @ X @ A.mT), atol=1e-5)
        True
    """
    return torch.kron(A.contiguous(), B.contiguous())


def kronecker_operator(A: Float[Tensor, "a b"], B: Float[Tensor, "c d"]) -> LinearOperator:
    """Give A ⊗ B as an operator.

    Args:
        A: A matrix.
        B: A matrix.

    Returns:
        The operator.

    Cost:
        Two products of matrices for each product with a vector; no number beyond A and B is held.

    Examples:
        >>> import torch
        >>> A, B = torch.randn(2, 3).double(), torch.randn(4, 5).double()
        >>> torch.allclose(kronecker_operator(A, B).dense(), kronecker(A, B))
        True
    """
    shape = (A.shape[0] * B.shape[0], A.shape[1] * B.shape[1])
    return LinearOperator(
        shape, lambda v: vec(B @ unvec(v, B.shape[1]) @ A.mT), lambda u: vec(B.mT @ unvec(u, B.shape[0]) @ A)
    )
